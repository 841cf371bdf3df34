import ClusterModel
import Configuration
import ControlPlane
import Coordinator
import Foundation
import Logging
import TrainingData
import TransfusionModel

/// Turns a configuration into what a coordinator is told, and runs one, with local workers or without.
struct RunLauncher {
  var configuration: RunConfiguration
  var runDirectory: String
  var listen: String
  var keys = ListeningKeyOptions()
  /// Workers started on this host; 0 for a coordinator alone.
  var localWorkers = 0
  var resources = WorkerResourceOptions()
  /// Where a trace is written, if anywhere.
  var trace: String?
  var log: Logger

  /// Opens the data (so that a wrong configuration fails before anything is written) and describes the run.
  func settings(resume: CoordinatorResume) throws -> CoordinatorSettings {
    let source = try configuration.microbatchSource()
    if configuration.validation.every > 0, source.validationMicrobatchCount == 0 {
      throw CommandFailure(
        .data,
        "validation.every is \(configuration.validation.every), but \(configuration.data.directory) has no validation split: "
          + "prepare it with --validation-images or --validation-text, or set validation.every to 0")
    }
    let planning = PlanningInput(configuration, limits: source.limits)
    let schedule = configuration.learningRate
    let parameters = configuration.model.parameters
    var settings = CoordinatorSettings(
      runDirectory: URL(filePath: runDirectory).standardizedFileURL.path, listen: listen,
      configuration: configuration.yaml, identity: configuration.identity,
      expectedWorkers: configuration.parallelism.workers,
      stages: configuration.parallelism.stages == 0 ? nil : configuration.parallelism.stages,
      schedule: configuration.parallelism.schedule, shape: configuration.shape, units: planning.units,
      memory: planning.memory, tensorShapes: Dictionary(uniqueKeysWithValues: parameters.map { ($0.name, $0.shape) }),
      totalSteps: configuration.run.steps, samplesPerStep: configuration.samplesPerStep,
      tokensPerStep: configuration.elementsPerStep, dataFingerprint: source.dataset.fingerprint,
      learningRate: { schedule.rate($0) },
      denominators: { samples in
        let counts = try source.denominators(samples: samples)
        return StepDenominators(targetTokens: UInt64(counts.targetTokens), images: UInt64(counts.images))
      })
    settings.precision = configuration.training.precision.rawValue
    settings.stopAfter = configuration.run.stopAfter == 0 ? nil : configuration.run.stopAfter
    settings.checkpointEvery = configuration.checkpoint.every
    settings.keepLast = configuration.checkpoint.keepLast
    settings.keepEvery = configuration.checkpoint.keepEvery == 0 ? nil : configuration.checkpoint.keepEvery
    settings.validationEvery = configuration.validation.every
    settings.validationMicrobatches = configuration.validation.every == 0 ? 0 : configuration.validation.microbatches
    settings.copyEvery = configuration.checkpoint.copyEvery
    settings.suspectSeconds = configuration.cluster.suspectSeconds
    settings.deadSeconds = configuration.cluster.deadSeconds
    settings.stuckSeconds = configuration.cluster.stuckSeconds
    settings.diffusionWeight = configuration.model.diffusionWeight
    let faults = configuration.faults
    settings.lossSpike =
      faults.lossSpikeWindow == 0
      ? nil : LossSpike(window: faults.lossSpikeWindow, deviations: faults.lossSpikeDeviations)
    settings.allowPlaintext = keys.insecurePlaintext
    settings.authorizedKeys = keys.authorizedKeys
    settings.connectionsPerKey = keys.connectionsPerKey
    settings.resume = resume
    settings.traceFile = trace.map { URL(filePath: $0).standardizedFileURL.path }
    return settings
  }
}
