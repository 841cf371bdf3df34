import ClusterModel
import Schedules

/// The text of `transfusion plan`: a plan as people read it.
public enum PlanReport {
  /// Stages, replicas, memory per worker, the schedule's grid, bubble and the reasons.
  ///
  /// - Parameters:
  ///   - tokensPerStep: with `totalSteps` for the tokens and the time of the whole run; nil leaves both out.
  ///   - host: names a worker's host where known.
  public static func render(
    _ decision: PlanDecision, units: [CostUnit], shape: StepShape, tokensPerStep: UInt64? = nil,
    totalSteps: Step? = nil, gridColumns: Int = 24, host: (WorkerID) -> String? = { _ in nil }
  ) -> String {
    let plan = decision.plan
    var lines: [String] = []
    lines.append(
      "\(plan.replicaCount) \(plan.replicaCount == 1 ? "replica" : "replicas") x \(plan.stageCount) "
        + "\(plan.stageCount == 1 ? "stage" : "stages"), \(plan.schedule.rawValue); a step has \(shape.microbatches) "
        + "microbatches in \(shape.leaves) leaves")
    lines.append("")
    lines.append("Stages")
    let total = units.reduce(0) { $0 + $1.forwardFlops }
    lines += table(
      [["stage", "units", "parameters", "work"]]
        + plan.stageUnits.enumerated().map { stage, range in
          let parameters = units[range].reduce(0) { $0 + $1.parameterCount }
          let share = units[range].reduce(0) { $0 + $1.forwardFlops } / max(total, 1) * 100
          return ["\(stage)", names(units[range]), grouped(parameters), fixed(share, 1) + " %"]
        })
    lines.append("")
    lines.append("Workers")
    var rows = [["rank", "worker", "replica", "stage", "microbatches", "slots", "memory", "limit", "forward"]]
    for estimate in decision.estimates {
      let range = shape.microbatches(ofLeaves: plan.replicaLeaves[estimate.place.replica])
      rows.append([
        plan.rank(of: estimate.worker).map(String.init) ?? "-",
        "\(estimate.worker.number)" + (host(estimate.worker).map { " (\($0))" } ?? ""), "\(estimate.place.replica)",
        "\(estimate.place.stage)", "\(range.lowerBound)-\(range.upperBound - 1)", "\(estimate.slots)",
        ByteText.text(estimate.memoryBytes), limit(estimate.memoryLimitBytes), seconds(estimate.forwardSeconds),
      ])
    }
    lines += table(rows)
    if !plan.spares.isEmpty { lines.append("  spare: " + plan.spares.map(\.description).joined(separator: ", ")) }
    let most = plan.replicaLeaves.map { shape.microbatches(ofLeaves: $0).count }.max() ?? 1
    let schedule = Schedule.training(plan.schedule, stages: plan.stageCount, microbatches: most)
    lines.append("")
    lines.append(
      "Schedule of a replica with \(most) \(most == 1 ? "microbatch" : "microbatches") (backward twice as long)")
    lines += schedule.grid(columns: gridColumns).split(separator: "\n").map { "  " + $0 }
    lines.append("")
    lines.append(
      "Bubble \(fixed(decision.bubbleFraction * 100, 1)) %, computation of a step \(seconds(decision.stepSeconds))")
    if let tokensPerStep, let totalSteps {
      let steps = "\(grouped(Int(clamping: totalSteps))) steps"
      let tokens =
        "\(grouped(Int(clamping: tokensPerStep.multipliedReportingOverflow(by: totalSteps).partialValue))) tokens"
      lines.append("\(steps), \(tokens), about \(duration(decision.stepSeconds * Double(totalSteps)))")
    }
    lines.append("")
    lines.append("Why")
    lines += decision.reasons.map { "  - " + $0 }
    return lines.joined(separator: "\n") + "\n"
  }

  private static func names(_ units: ArraySlice<CostUnit>) -> String {
    guard let first = units.first, let last = units.last else { return "-" }
    return units.count == 1 ? first.name : "\(first.name) ... \(last.name)"
  }

  private static func limit(_ bytes: UInt64) -> String { bytes == .max ? "none" : ByteText.text(bytes) }

  /// Columns padded to their widest cell, indented by two.
  public static func table(_ rows: [[String]]) -> [String] {
    guard let columns = rows.first?.count else { return [] }
    let widths = (0..<columns).map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      var line = " "
      for (column, cell) in row.enumerated() {
        line += " " + cell
        if column < columns - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 1) }
      }
      return line
    }
  }

  /// 1234567 as "1,234,567".
  static func grouped(_ number: Int) -> String {
    var text = ""
    for (index, digit) in String(number).reversed().enumerated() {
      if index > 0, index.isMultiple(of: 3), digit != "-" { text.append(",") }
      text.append(digit)
    }
    return String(text.reversed())
  }

  /// A number with so many digits after the point, without Foundation.
  static func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
    var scale = 1
    for _ in 0..<digits { scale *= 10 }
    let whole = Int((abs(value) * Double(scale)).rounded())
    let sign = value < 0 && whole > 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(whole)" }
    let fraction = String(whole % scale)
    return "\(sign)\(whole / scale)." + String(repeating: "0", count: digits - fraction.count) + fraction
  }

  static func seconds(_ value: Double) -> String {
    if value >= 1 { return fixed(value, 2) + " s" }
    if value >= 1e-3 { return fixed(value * 1e3, 1) + " ms" }
    return fixed(value * 1e6, 1) + " us"
  }

  /// "3 d 4 h", "5 min 10 s".
  public static func duration(_ value: Double) -> String {
    guard value.isFinite, value >= 0, value < 1e12 else { return "unknown" }
    let total = Int(value.rounded())
    let parts = [(total / 86400, "d"), (total / 3600 % 24, "h"), (total / 60 % 60, "min"), (total % 60, "s")]
    let first = parts.firstIndex { $0.0 > 0 } ?? 3
    return parts[first..<min(first + 2, 4)].map { "\($0.0) \($0.1)" }.joined(separator: " ")
  }
}
