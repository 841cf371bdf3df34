import ArgumentParser
import Configuration

struct ConfigurationCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "configuration", abstract: "Explain and check run configurations.",
    subcommands: [ConfigurationKeys.self, ConfigurationCheck.self])
}

struct ConfigurationKeys: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "keys", abstract: "Print every key with type, default and meaning, as a Markdown table.")

  func run() { print(RunConfiguration.reference, terminator: "") }
}

struct ConfigurationCheck: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check", abstract: "Check a configuration and print it resolved, every key with its value.")

  @OptionGroup var options: ConfigurationOptions

  func run() throws { print(try options.load().yaml, terminator: "") }
}
