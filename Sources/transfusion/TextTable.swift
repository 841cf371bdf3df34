/// Rows of text in aligned columns, for people.
struct TextTable {
  private var rows: [[String]] = []
  private let right: Set<Int>

  /// - Parameters:
  ///   - header: first row; none when empty.
  ///   - right: columns that are aligned to the right.
  init(_ header: [String], right: Set<Int>) {
    self.right = right
    if !header.isEmpty { rows.append(header) }
  }

  mutating func add(_ row: [String]) { rows.append(row) }

  /// The table, without a newline at its end.
  var text: String {
    var widths: [Int] = []
    for row in rows {
      for (column, cell) in row.enumerated() {
        if column == widths.count { widths.append(0) }
        widths[column] = max(widths[column], cell.count)
      }
    }
    return rows.map { row in
      row.enumerated().map { column, cell in
        let padding = String(repeating: " ", count: widths[column] - cell.count)
        if right.contains(column) { return padding + cell }
        return column == row.count - 1 ? cell : cell + padding
      }.joined(separator: "  ")
    }.joined(separator: "\n")
  }
}
