extension Schedule {
  /// The schedule as text: a row per stage, time to the right, a forward one column wide and a backward two
  /// (its usual cost); idle columns are dots. Longer grids than `columns` end in an ellipsis.
  public func grid(columns: Int = 24) -> String {
    let unit = stages.map { _ in StageCost(forward: 1, backward: 2) }
    let timeline = timeline(costs: unit)
    let total = Int(timeline.duration.rounded())
    let shown = min(total, max(columns, 1))
    // One letter and the longest ordinal, so that all columns line up.
    let width = 1 + String(max(microbatches - 1, 0)).count
    func cell(_ text: String) -> String {
      text + String(repeating: " ", count: max(0, width - text.count))
    }
    let labelWidth = "stage \(stages.count - 1)".count
    let rows = timeline.stages.enumerated().map { stage, spans in
      var cells = [String](repeating: ".", count: shown)
      for span in spans {
        for column in Int(span.start)..<Int(span.end) where column < shown { cells[column] = span.action.description }
      }
      let label = "stage \(stage)"
      let row = cells.map(cell).joined(separator: " ") + (shown < total ? " ..." : "")
      let line = label + String(repeating: " ", count: labelWidth - label.count) + " | " + row
      return String(line[...(line.lastIndex { $0 != " " } ?? line.startIndex)])
    }
    return rows.joined(separator: "\n")
  }
}
