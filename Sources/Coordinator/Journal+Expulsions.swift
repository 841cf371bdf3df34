import ControlPlane
import GRDB

extension Journal {
  /// Expels a worker for good, durably. The first record of a worker stays.
  public func record(_ expulsion: ExpulsionRecord) throws(CoordinatorError) {
    try fenced(expulsion.generation) { database in
      try database.execute(
        sql: "INSERT OR IGNORE INTO expelled VALUES (?, ?, ?, ?, ?)",
        arguments: [
          Int64(expulsion.worker.number), expulsion.host, Int64(expulsion.step), Int64(expulsion.generation.number),
          expulsion.reason,
        ])
    }
  }

  /// Expelled workers, in the order in which they were found out.
  public func expulsions() throws(CoordinatorError) -> [ExpulsionRecord] {
    try read { database in
      try Row.fetchAll(database, sql: "SELECT * FROM expelled ORDER BY step, worker").map(JournalRows.expulsion)
    }
  }
}
