import ArgumentParser

@main
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
      WorkerCommand.self, CheckpointCommand.self, DataCommand.self, VerifyCommand.self,
    ])
}
