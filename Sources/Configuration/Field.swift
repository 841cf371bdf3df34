/// One key of the configuration file: how it is read, checked, written and explained.
///
/// The table of fields is the only place that knows the file format: decoding, the resolved
/// `config.yaml`, unknown-key suggestions and `docs/configuration.md` all come from it.
public struct Field: Sendable {
  /// Dotted path, for example "model.layers".
  public let key: String
  public let explanation: String
  public let kind: String
  /// True when another value gives another result: such keys make up the run's identity, and a resumed
  /// run must not change them.
  public let definesResult: Bool
  /// A key that came later and changes nothing at its default: runs from before it can be resumed.
  var isInIdentityAtDefault = true
  /// Sets the value from a scalar; throws what is wrong with it.
  let read: @Sendable (String, inout RunConfiguration) throws(FieldFault) -> Void
  let write: @Sendable (RunConfiguration) -> String
}

extension Field {
  var leftOutOfIdentityAtDefault: Field {
    var field = self
    field.isInIdentityAtDefault = false
    return field
  }
}

enum FieldFault: Error {
  case type(expected: String)
  case range(reason: String)
}

extension Field {
  static func integer<Value: FixedWidthInteger & Sendable>(
    _ key: String, _ path: WritableKeyPath<RunConfiguration, Value> & Sendable, in range: ClosedRange<Value>,
    definesResult: Bool = true, _ explanation: String
  ) -> Field {
    Field(key: key, explanation: explanation, kind: "integer", definesResult: definesResult) {
      (text, configuration) throws(FieldFault) in
      guard let value = Value(text.replacing("_", with: "")) else {
        throw .type(expected: "an integer")
      }
      guard range.contains(value) else {
        throw .range(reason: "is not in \(range.lowerBound)...\(range.upperBound)")
      }
      configuration[keyPath: path] = value
    } write: {
      String($0[keyPath: path])
    }
  }

  static func number(
    _ key: String, _ path: WritableKeyPath<RunConfiguration, Double> & Sendable, in range: ClosedRange<Double>,
    definesResult: Bool = true, _ explanation: String
  ) -> Field {
    Field(key: key, explanation: explanation, kind: "number", definesResult: definesResult) {
      (text, configuration) throws(FieldFault) in
      guard let value = Double(text), value.isFinite else { throw .type(expected: "a number") }
      guard range.contains(value) else {
        throw .range(reason: "is not in \(range.lowerBound)...\(range.upperBound)")
      }
      configuration[keyPath: path] = value
    } write: {
      "\($0[keyPath: path])"
    }
  }

  static func single(
    _ key: String, _ path: WritableKeyPath<RunConfiguration, Float> & Sendable, in range: ClosedRange<Float>,
    _ explanation: String
  ) -> Field {
    Field(key: key, explanation: explanation, kind: "number", definesResult: true) {
      (text, configuration) throws(FieldFault) in
      guard let value = Float(text), value.isFinite else { throw .type(expected: "a number") }
      guard range.contains(value) else {
        throw .range(reason: "is not in \(range.lowerBound)...\(range.upperBound)")
      }
      configuration[keyPath: path] = value
    } write: {
      "\($0[keyPath: path])"
    }
  }

  static func flag(
    _ key: String, _ path: WritableKeyPath<RunConfiguration, Bool> & Sendable, definesResult: Bool = true,
    _ explanation: String
  ) -> Field {
    Field(key: key, explanation: explanation, kind: "true or false", definesResult: definesResult) {
      (text, configuration) throws(FieldFault) in
      guard text == "true" || text == "false" else { throw .type(expected: "true or false") }
      configuration[keyPath: path] = text == "true"
    } write: {
      $0[keyPath: path] ? "true" : "false"
    }
  }

  static func choice<Value: RawRepresentable & CaseIterable & Sendable>(
    _ key: String, _ path: WritableKeyPath<RunConfiguration, Value> & Sendable, definesResult: Bool = true,
    _ explanation: String
  ) -> Field where Value.RawValue == String {
    let all = Value.allCases.map(\.rawValue)
    let names = all.dropLast().joined(separator: ", ") + " or " + all.suffix(1).joined()
    return Field(key: key, explanation: explanation, kind: names, definesResult: definesResult) {
      (text, configuration) throws(FieldFault) in
      guard let value = Value(rawValue: text) else { throw .type(expected: names) }
      configuration[keyPath: path] = value
    } write: {
      $0[keyPath: path].rawValue
    }
  }

  static func text(
    _ key: String, _ path: WritableKeyPath<RunConfiguration, String> & Sendable, definesResult: Bool,
    _ explanation: String
  ) -> Field {
    Field(key: key, explanation: explanation, kind: "text", definesResult: definesResult) {
      (text, configuration) throws(FieldFault) in
      configuration[keyPath: path] = text
    } write: {
      quoted($0[keyPath: path])
    }
  }

  /// A text as YAML between double quotes: what could end the line or is not printable is escaped by its number.
  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\" + String(scalar)
      default:
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned: break
        default:
          result.unicodeScalars.append(scalar)
          continue
        }
        let digits = String(scalar.value, radix: 16)
        result += "\\U" + String(repeating: "0", count: 8 - digits.count) + digits
      }
    }
    return result + "\""
  }
}
