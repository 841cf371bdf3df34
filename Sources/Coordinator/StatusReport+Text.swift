import ControlPlane
import Foundation

extension StatusReport {
  /// The report for a terminal: progress bar, numbers, workers.
  /// - Parameter width: columns of the terminal.
  public func text(width: Int = 80) -> String {
    var lines = [headline, bar(width: max(20, min(width, 120))), ""]
    func line(_ label: String, _ value: String?) {
      guard let value else { return }
      lines.append("  " + label.padding(toLength: 16, withPad: " ", startingAt: 0) + value)
    }
    line("tokens", "\(Self.short(Double(tokens))) of \(Self.short(Double(tokensTotal)))")
    line("loss", losses(languageModelLoss, diffusionLoss))
    line("gradient norm", gradientNorm.map { Self.digits($0) })
    line("learning rate", learningRate.map { String(format: "%.3g", $0) })
    line(
      "speed",
      tokensPerSecond.map { tokens in
        "\(Self.short(tokens)) tokens/s" + (secondsPerStep.map { ", " + String(format: "%.2f s a step", $0) } ?? "")
      })
    if step < totalSteps { line("time left", secondsLeft.map { PlanReport.duration($0) }) }
    let saved =
      lastCheckpoint.map { checkpoint in
        "step \(checkpoint.step)" + (checkpoint.secondsAgo.map { ", \(PlanReport.duration($0)) ago" } ?? "")
      } ?? "none yet"
    let since = stepsToLose == 0 || lastCheckpoint == nil ? "" : "; \(stepsToLose) steps since"
    line("checkpoint", saved + since + (checkpointInFlight.map { "; writing step \($0)" } ?? ""))
    line("copies", lastCopy.map { "step \($0), of each worker on another one" })
    if let validation = validations.last {
      line(
        "validation",
        losses(validation.languageModelLoss, validation.diffusionLoss).map { "\($0) at step \(validation.step)" })
    }
    if let plan {
      line(
        "plan",
        "\(plan.replicas) \(plan.replicas == 1 ? "replica" : "replicas") x \(plan.stages) \(plan.stages == 1 ? "stage" : "stages"), \(plan.schedule), generation \(generation)"
      )
    }
    line("waiting", waitingReason)
    line(
      "slowest",
      slowest.map { "worker \($0.worker), most of it \($0.phase), " + String(format: "%.2f s a step", $0.seconds) })
    line("skipped", skippedSamples.map { "\($0) samples (see `transfusion ledger show`)" })
    line(
      "expelled",
      expelled.map {
        "worker \($0.map(String.init).joined(separator: ", ")): computes wrongly (see `transfusion ledger show`)"
      })
    if !workers.isEmpty {
      lines.append("")
      lines += workerTable
    } else if let expectedWorkers, live {
      line("workers", "0 of \(expectedWorkers)")
    }
    if let outcome { lines += ["", "  ended: \(outcome.kind): \(outcome.reason)"] }
    return lines.joined(separator: "\n") + "\n"
  }

  private var headline: String {
    "run \(run.prefix(8))  \(state)" + (live ? "" : " (no coordinator is running; from the journal)")
  }

  private func bar(width: Int) -> String {
    let fraction = totalSteps == 0 ? 1 : min(1, Double(step) / Double(totalSteps))
    let label = " step \(step) of \(totalSteps), " + String(format: "%.1f %%", fraction * 100)
    let cells = max(10, width - label.count - 2)
    let full = Int((fraction * Double(cells)).rounded(.down))
    return "[" + String(repeating: "#", count: full) + String(repeating: "-", count: cells - full) + "]" + label
  }

  private func losses(_ languageModel: Double?, _ diffusion: Double?) -> String? {
    let parts = [
      languageModel.map { "language model " + Self.digits($0) }, diffusion.map { "diffusion " + Self.digits($0) },
    ].compactMap { $0 }
    return parts.isEmpty ? nil : parts.joined(separator: ", ")
  }

  private var workerTable: [String] {
    var rows = [["worker", "host", "rank", "replica", "stage", "state", "phase", "microbatches/s", "memory"]]
    for worker in workers {
      func number(_ value: Int?) -> String { value.map(String.init) ?? "-" }
      rows.append([
        "\(worker.id)", worker.host, number(worker.rank), number(worker.replica), number(worker.stage), worker.state,
        worker.phase.isEmpty ? "-" : worker.phase, String(format: "%.2f", worker.microbatchesPerSecond),
        worker.memoryBytes == 0 ? "-" : ByteText.text(worker.memoryBytes),
      ])
    }
    return PlanReport.table(rows)
  }

  private static func digits(_ value: Double) -> String { String(format: "%.4f", value) }

  /// 1.2k, 3.4M, 2.0T.
  static func short(_ value: Double) -> String {
    for (size, letter) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] where abs(value) >= size {
      return String(format: "%.2f", value / size) + letter
    }
    return String(format: "%.0f", value)
  }
}
