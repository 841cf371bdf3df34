import ClusterModel
import ControlPlane
import Coordinator
import Foundation
import Logging
import Synchronization
import Transport
import Wire

/// A temporary run directory and coordinators on it, each on a thread of its own.
final class TestRun: Sendable {
  let path: String

  init() {
    path = FileManager.default.temporaryDirectory.appending(path: "coordinator-\(UUID().uuidString)").path
  }
  deinit { try? FileManager.default.removeItem(atPath: path) }

  func settings(workers: Int = 2, steps: Step = 6) -> CoordinatorSettings {
    let units = (0..<4).map {
      CostUnit(name: "unit \($0)", forwardFlops: 1e6, parameterCount: 1000, activationBytes: 1000)
    }
    var settings = CoordinatorSettings(
      runDirectory: path, listen: "tcp://127.0.0.1:*", configuration: "model: tiny\n", identity: "seed: 1\nwidth: 8",
      expectedWorkers: workers, stages: 1, schedule: .gpipe, shape: StepShape(microbatches: 4, leaves: 2), units: units,
      memory: MemoryModel(), tensorShapes: FakeWorker.tensorShapes, totalSteps: steps, samplesPerStep: 8,
      tokensPerStep: 512, dataFingerprint: "data", learningRate: { 1 / Double($0 + 1) },
      denominators: { _ in StepDenominators(targetTokens: 40, images: 4) })
    settings.checkpointEvery = 2
    settings.keepLast = 2
    settings.validationEvery = 3
    settings.validationMicrobatches = 2
    settings.deadSeconds = 5
    return settings
  }

  struct Ended: Sendable {
    var outcome: Result<CoordinatorOutcome, any Error>
    var stops: [Stop?]
    var log: [String]
  }

  /// Runs a coordinator and fake workers to the end.
  /// - Parameters:
  ///   - stopAtStep: asks for a drain once so many steps are committed.
  ///   - stopCount: how often it asks then.
  ///   - keys: of each worker, where the coordinator has some.
  ///   - observing: called on another thread with the address once workers are there.
  func run(
    _ settings: CoordinatorSettings, faults: [Int: FakeWorker.Fault] = [:], stopAtStep: Step? = nil, stopCount: Int = 1,
    startsWorkers: Bool = true, keys: [KeyPair] = [],
    observing: (@Sendable (String) -> Void)? = nil
  ) -> Ended {
    let log = Mutex<[String]>([])
    let stops = Mutex<[Stop?]>([])
    let asked = Atomic<Int>(0)
    let outcome = Mutex<Result<CoordinatorOutcome, any Error>?>(nil)
    let group = DispatchGroup()
    let box = CollectedLog { line in log.withLock { $0.append(line) } }
    let done = DispatchSemaphore(value: 0)
    let coordinatorBody: @Sendable () -> Void = {
      let result = Result {
        let coordinator = try CoordinatorProcess(settings, log: box.logger) { asked.load(ordering: .relaxed) }
        for number in 0..<(startsWorkers ? settings.expectedWorkers : 0) {
          let worker = FakeWorker(
            address: coordinator.endpoint, name: "host-\(number)", fault: faults[number],
            keys: settings.keys.map { ClientKeys(keys[number], server: $0.publicKey) })
          group.enter()
          Thread.detachNewThread {
            let stop = try? worker.run()
            stops.withLock { $0.append(stop) }
            group.leave()
          }
        }
        if let observing {
          let endpoint = coordinator.endpoint
          group.enter()
          Thread.detachNewThread {
            observing(endpoint)
            group.leave()
          }
        }
        return try coordinator.run { report in
          if let stopAtStep, report.step >= stopAtStep { asked.store(stopCount, ordering: .relaxed) }
        }
      }
      outcome.withLock { $0 = result }
      done.signal()
    }
    Thread.detachNewThread(coordinatorBody)
    done.wait()
    group.wait()
    return Ended(
      outcome: outcome.withLock { $0 } ?? .failure(CancellationError()), stops: stops.withLock { $0 },
      log: log.withLock { $0 })
  }
}

/// A logger whose lines go to a closure.
struct CollectedLog: Sendable {
  let logger: Logger
  init(_ sink: @escaping @Sendable (String) -> Void) {
    var logger = Logger(label: "test") { _ in Handler(sink: sink) }
    logger.logLevel = .debug
    self.logger = logger
  }

  private struct Handler: LogHandler {
    let sink: @Sendable (String) -> Void
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.debug
    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }
    func log(event: LogEvent) {
      sink("\(event.level) \(event.message)")
    }
  }
}
