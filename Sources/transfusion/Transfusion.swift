import ArgumentParser
import Foundation

struct Transfusion: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "transfusion",
    abstract: "Trains Transfusion models across worker processes: the same bits whatever happens.",
    discussion: """
      Start with `transfusion data prepare`, then `transfusion train --config FILE --run DIR --workers N`.
      Exit codes are explained in docs/exit-codes.md.
      """,
    subcommands: [
      TrainCommand.self, ResumeCommand.self, StatusCommand.self, PlanCommand.self, CoordinatorCommand.self,
      WorkerCommand.self, CheckpointCommand.self, LedgerCommand.self, DataCommand.self, KeysCommand.self,
      ConfigurationCommand.self, VerifyCommand.self, BenchCommand.self,
      SimulateCommand.self,
    ])
}

/// Parses, runs, and turns what is thrown into one line on standard error and the exit code of its class.
@main
struct Main {
  static func main() async {
    do {
      var command = try Transfusion.parseAsRoot()
      if var asynchronous = command as? AsyncParsableCommand {
        try await asynchronous.run()
      } else {
        try command.run()
      }
    } catch {
      guard let failure = classified(error) else { Transfusion.exit(withError: error) }
      StandardError.write("error: \(failure.message)")
      Foundation.exit(failure.status.rawValue)
    }
  }
}
