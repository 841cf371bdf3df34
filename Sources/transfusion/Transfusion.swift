import ArgumentParser

@main
struct Transfusion: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "transfusion",
    abstract: "Trains Transfusion models across worker processes: the same bits whatever happens.",
    subcommands: [DataCommand.self, CheckpointCommand.self])
}
