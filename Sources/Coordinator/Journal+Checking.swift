import GRDB

extension Journal {
  /// Refuses rows that reading would trip over: a type, a sign or an order that this program never writes.
  ///
  /// SQLite keeps whatever it is given in any column, and a page that a disk has damaged may still be a page. What the
  /// columns must hold is what ``makeTables(_:)`` says of them, so a column that is added is checked from then on.
  static func check(_ database: Database) throws {
    let model = try DatabaseQueue()
    let expected = try model.write { model -> [(table: String, columns: [Row])] in
      try makeTables(model)
      let tables = try String.fetchAll(model, sql: "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
      return try tables.map {
        ($0, try Row.fetchAll(model, sql: "SELECT * FROM pragma_table_info(?)", arguments: [$0]))
      }
    }
    for (table, columns) in expected where try database.tableExists(table) {
      var rules = columns.map {
        rule(name: $0["name"], type: $0["type"], isRequired: $0["notnull"] == 1 || $0["pk"] > 0)
      }
      let names = Set(columns.map { $0["name"] as String })
      if names.isSuperset(of: ["first_sample", "next_sample"]) { rules.append("first_sample <= next_sample") }
      let wrong = try Int.fetchOne(
        database, sql: "SELECT rowid FROM \(table) WHERE NOT (\(rules.joined(separator: " AND "))) LIMIT 1")
      if let wrong {
        throw DatabaseError(
          resultCode: .SQLITE_CORRUPT, message: "row \(wrong) of its table \(table) holds what was never written")
      }
    }
  }

  private static func rule(name: String, type: String, isRequired: Bool) -> String {
    let kind =
      switch type {
      // Numbers of everything that is counted are far below; the widths of worker and process are those in messages.
      case "INTEGER" where name == "worker": "typeof(worker) = 'integer' AND worker BETWEEN 0 AND \(UInt32.max - 1)"
      case "INTEGER" where name == "process_id":
        "typeof(process_id) = 'integer' AND process_id BETWEEN 0 AND \(Int32.max)"
      case "INTEGER": "typeof(\(name)) = 'integer' AND \(name) BETWEEN 0 AND \(1 << 60)"
      case "REAL": "typeof(\(name)) IN ('real', 'integer')"
      default: "typeof(\(name)) = 'text'"
      }
    return isRequired ? "(\(kind))" : "(\(name) IS NULL OR (\(kind)))"
  }
}
