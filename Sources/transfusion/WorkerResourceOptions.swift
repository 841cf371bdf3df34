import ArgumentParser
import Compute
import Worker

/// What each of the workers that a command makes on its host may take of that.
struct WorkerResourceOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Compute threads of each worker; by default all processors that this process may use, shared by local workers.",
      valueName: "n"))
  var threads: Int?

  @Option(
    name: .long,
    help: ArgumentHelp(
      "Memory that each worker's tensors may take; by default 80 % of what this process may use, shared by local workers.",
      valueName: "bytes"))
  var memoryLimit: Int?

  @Flag(
    name: .long,
    help:
      "Keep each compute thread on a processor of its own; local workers do not share any. For hosts with nothing else to do."
  )
  var pin = false

  /// Set in the processes that --pin starts: "4,5,6".
  @Option(name: .long, help: .hidden) var pinTo: ProcessorList?

  func validate() throws {
    if let threads, !(1...4096).contains(threads) { throw ValidationError("--threads must be in 1...4096") }
    if let memoryLimit, memoryLimit < 1 << 20 { throw ValidationError("--memory-limit must be at least 1048576 bytes") }
    if let pinTo, pinTo.numbers.count < (threads ?? .max) {
      throw ValidationError("--pin-to needs --threads, and a processor for each of them")
    }
  }

  /// Of one of several workers on this host.
  struct Share: Equatable {
    var threads: Int
    var memoryLimit: Int
    /// Where its threads stay; nil: wherever the system puts them.
    var processors: [Int]?

    /// What tells another process of it.
    var arguments: [String] {
      ["--threads", "\(threads)", "--memory-limit", "\(memoryLimit)"]
        + (processors.map { ["--pin-to", ProcessorList(numbers: $0).text] } ?? [])
    }
  }

  /// What each of `count` workers on this host takes.
  ///
  /// - Throws: `ValidationError` when they are to have processors of their own and there are not enough.
  func shares(
    of count: Int, allowance: HostAllowance = .ofProcess, processors: [Int] = ProcessorAffinity.ofProcess
  ) throws -> [Share] {
    let threads = threads ?? max(1, allowance.processors / count)
    let memory = memoryLimit ?? Int(Double(allowance.memoryBytes) * 0.8) / count
    if let pinTo { return [Share(threads: threads, memoryLimit: memory, processors: pinTo.numbers)] }
    guard pin else { return Array(repeating: Share(threads: threads, memoryLimit: memory), count: count) }
    guard threads * count <= processors.count else {
      throw ValidationError(
        "--pin keeps each compute thread on a processor of its own: \(count) \(count == 1 ? "worker" : "workers") of "
          + "\(threads) threads need \(threads * count), and this process may use \(processors.count)")
    }
    return (0..<count).map { number in
      Share(
        threads: threads, memoryLimit: memory,
        processors: Array(processors[number * threads..<(number + 1) * threads]))
    }
  }
}

struct ProcessorList: ExpressibleByArgument {
  var numbers: [Int]
  var text: String { numbers.map(String.init).joined(separator: ",") }

  init(numbers: [Int]) { self.numbers = numbers }
  init?(argument: String) {
    numbers = []
    for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
      guard let number = Int32(part), number >= 0 else { return nil }
      numbers.append(Int(number))
    }
  }
}
