/// Faults put into a program on purpose, for the simulator to find: none of them is reachable from outside the package.
package struct PlantedBug: OptionSet, Hashable, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Stale messages pass the coordinator's gate.
  package static let skipGate = PlantedBug(rawValue: 1 << 0)
  /// The machine is told that a step is in the journal before it is on disk.
  package static let commitBeforeFlush = PlantedBug(rawValue: 1 << 1)
  /// A coordinator begins with the newest generation of the journal, not with the next.
  package static let reuseGeneration = PlantedBug(rawValue: 1 << 2)
  /// Replicas' sums are added in the order in which they arrive.
  package static let sumByArrival = PlantedBug(rawValue: 1 << 3)
  /// Workers obey a coordinator that another one has followed.
  package static let obeyOldCoordinator = PlantedBug(rawValue: 1 << 4)
  /// A worker carries out an order each time that it comes.
  package static let repeatOrders = PlantedBug(rawValue: 1 << 5)
  /// A new generation leaves the checkpoint of the old one in flight.
  package static let keepCheckpoint = PlantedBug(rawValue: 1 << 6)
  /// A worker gives the state of its newest copy, whatever step that is of.
  package static let wrongCopy = PlantedBug(rawValue: 1 << 7)
  /// After a restart from a checkpoint the sample stream begins a step too early.
  package static let repeatSamples = PlantedBug(rawValue: 1 << 8)
  /// A state is taken to be complete when anybody holds a part of it.
  package static let skipCoverage = PlantedBug(rawValue: 1 << 9)
  /// The journal takes what a coordinator says that another one has followed.
  package static let skipFence = PlantedBug(rawValue: 1 << 10)
  /// An answer that was lost is never asked for again.
  package static let loseAnswers = PlantedBug(rawValue: 1 << 11)
  /// Workers update before the step is in the journal.
  package static let updateEarly = PlantedBug(rawValue: 1 << 12)
  /// A damaged checkpoint is loaded.
  package static let trustFiles = PlantedBug(rawValue: 1 << 13)
  /// A step that is bad twice is the samples' fault, whoever computed what.
  package static let blameSamples = PlantedBug(rawValue: 1 << 14)
  /// A state is made from sums of any attempt at its step.
  package static let anySums = PlantedBug(rawValue: 1 << 15)
  /// A restarted coordinator does not know whom the one before it has expelled.
  package static let forgetExpelled = PlantedBug(rawValue: 1 << 16)
  /// A spare that wants to go waits for the next generation.
  package static let keepSpares = PlantedBug(rawValue: 1 << 17)

  package static let all: [(name: String, bug: PlantedBug)] = [
    ("skip the gate", .skipGate), ("commit before the flush", .commitBeforeFlush),
    ("reuse a generation", .reuseGeneration), ("sum by arrival", .sumByArrival),
    ("obey an older coordinator", .obeyOldCoordinator), ("carry out an order twice", .repeatOrders),
    ("keep the checkpoint at a regroup", .keepCheckpoint), ("use a copy of a wrong step", .wrongCopy),
    ("consume samples twice after a restart", .repeatSamples), ("skip the coverage check", .skipCoverage),
    ("skip the journal's fence", .skipFence), ("never ask for a lost answer", .loseAnswers),
    ("update before the commit", .updateEarly), ("load damaged files", .trustFiles),
    ("blame the samples", .blameSamples), ("use the sums of another attempt", .anySums),
    ("forget who was expelled", .forgetExpelled), ("keep spares that want to go", .keepSpares),
  ]
}
