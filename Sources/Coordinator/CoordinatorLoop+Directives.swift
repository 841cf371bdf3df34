import Checkpoints
import ClusterModel
import ControlPlane
import Foundation
import Logging
import Transport
import Wire

extension CoordinatorLoop {
  /// Does what the machine decided, in order.
  func obey(_ directives: [CoordinatorDirective]) {
    for directive in directives {
      // What follows a write that failed was to happen only after it, but for the end.
      if isJournalLost, !directive.isEnd { continue }
      switch directive {
      case .persistWorker(let record): journaling { () throws(CoordinatorError) in try journal.record(record) }
      case .persistGeneration(let generation, let previous, let reason):
        journaling { () throws(CoordinatorError) in
          try journal.begin(
            generation, after: previous, reason: reason, host: RunOpening.hostName,
            processID: ProcessInfo.processInfo.processIdentifier, at: Date().timeIntervalSince1970)
        }
      case .persistPlan(let record): journaling { () throws(CoordinatorError) in try journal.record(record) }
      case .send(let envelope, let connections): send(envelope, to: connections)
      case .answerStatus(let connection): answerStatus(connection)
      case .commitStep(let record): commit(record)
      case .recordSkip(let record): journaling { () throws(CoordinatorError) in try journal.record(record) }
      case .recordExpulsion(let record): journaling { () throws(CoordinatorError) in try journal.record(record) }
      case .revokeKey(let key): revoke(key)
      case .recordEvaluation(let record): recordEvaluation(record)
      case .commitCheckpoint(let request): commits.commit(request)
      case .discardCheckpoint(let step): discard(step)
      case .applyRetention: commits.retain(keepLast: settings.keepLast, keepEvery: settings.keepEvery)
      case .log(let level, let text): log.log(level: Logger.Level(rawValue: level.rawValue) ?? .info, "\(text)")
      case .recordTrace(let report, let worker): recordTrace(report, of: worker)
      case .finish(let outcome): finish(outcome)
      }
    }
  }

  /// A write has failed, or was refused because another coordinator has taken over; the machine is about to hear of it.
  private var isJournalLost: Bool {
    pending.contains { event in
      switch event {
      case .superseded, .journalFailed, .stepNotReproduced: true
      default: false
      }
    }
  }

  private func journaling(_ body: () throws(CoordinatorError) -> Void) {
    do throws(CoordinatorError) { try body() } catch { pending.append(Self.event(of: error)) }
  }

  /// What a failure of the journal means.
  static func event(of error: CoordinatorError) -> CoordinatorEvent {
    if case .superseded = error { return .superseded(reason: "\(error)") }
    return .journalFailed(reason: "\(error)")
  }

  private func send(_ envelope: Envelope, to connections: [Connection]) {
    timeStep(envelope.message)
    let present = peers.find(connections)
    for (index, error) in server.send(envelope, to: present.peers) {
      let connection = present.connections[index]
      if case .peerUnreachable = error {} else { log.warning("could not send to peer \(connection): \(error)") }
      pending.append(.connectionRefused(connection))
    }
    // Answered before `ready`: however short the run, its spans can be placed in time.
    if case .prepare = envelope.message { connections.forEach(askForClock) }
  }

  /// A step begins with its first `runStep`; the update of the one before, which came after that one's commit, counts
  /// with it, an evaluation in between does not.
  private func timeStep(_ message: ControlMessage) {
    switch message {
    case .runStep(let step) where stepBegan?.step != step:
      if let updateBegan { updateSeconds = updateSeconds ?? updateBegan.duration(to: .now) / .seconds(1) }
      updateBegan = nil
      stepBegan = (step, .now)
      traceStepBegan = trace?.now
    case .update where updateBegan == nil:
      updateBegan = .now
      updateSeconds = nil
    case .evaluate where updateSeconds == nil:
      updateSeconds = updateBegan.map { $0.duration(to: .now) / .seconds(1) }
    case .regroup:
      updateBegan = nil
      updateSeconds = nil
    default: break
    }
  }

  private func commit(_ record: StepRecord) {
    let barrierSeconds = stepBegan.map { $0.at.duration(to: .now) / .seconds(1) } ?? 0
    barrier(record.step, barrierSeconds)
    let seconds = barrierSeconds + (updateSeconds ?? 0)
    let journalBegan = trace?.now ?? 0
    do throws(CoordinatorError) {
      let now = Date().timeIntervalSince1970
      switch try journal.commit(record, seconds: seconds, at: now) {
      case .committed, .reproduced:
        history.append(JournaledStep(record: record, seconds: seconds))
        logStep(record)
        pending.append(.stepJournaled(record.step))
        tracing { trace throws(CoordinatorError) in
          trace.addStep(record.step, from: traceStepBegan, journalFrom: journalBegan)
        }
      case .differs(let reason): pending.append(.stepNotReproduced(record.step, reason: reason))
      }
    } catch {
      pending.append(Self.event(of: error))
    }
  }

  private func recordEvaluation(_ record: EvaluationRecord) {
    journaling { () throws(CoordinatorError) in try journal.record(record, at: Date().timeIntervalSince1970) }
    history.append(record)
    let parts = [
      record.languageModelLoss.map { String(format: "language model %.4f", $0) },
      record.diffusionLoss.map { String(format: "diffusion %.4f", $0) },
    ].compactMap { $0 }
    log.info("validation at step \(record.step): \(parts.joined(separator: ", "))")
    progress(status())
  }

  private func discard(_ step: Step) {
    // Nothing else is being written: the machine keeps one checkpoint in flight. The files of whoever has taken over
    // are not this coordinator's to remove.
    journaling { () throws(CoordinatorError) in
      let removal = try journal.exclusively { () throws(CheckpointError) in try store.removeUncommitted() }
      if case .failure(let error) = removal {
        log.warning("the files of the failed checkpoint of step \(step) stay: \(error)")
      }
    }
  }

  private func finish(_ outcome: Outcome) {
    self.outcome = outcome
    let ending = StatusReport.Ending(kind: outcome.kind.rawValue, reason: outcome.reason, exitCode: outcome.exitCode)
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    if let text = try? encoder.encode(ending) {
      do throws(CoordinatorError) { try journal.set(.outcome, String(decoding: text, as: UTF8.self)) } catch {
        log.warning("the run's end is not in the journal: \(error)")
      }
    }
    log.log(level: outcome.exitCode == 0 ? .notice : .error, "\(outcome)")
  }

  private func logStep(_ record: StepRecord) {
    let report = status(withWorkers: false)
    var parts = ["step \(record.step + 1)/\(settings.totalSteps)"]
    if let weight = settings.diffusionWeight {
      parts.append(String(format: "loss %.4f", record.loss(diffusionWeight: weight)))
    }
    if let loss = record.languageModelLoss { parts.append(String(format: "language model %.4f", loss)) }
    if let loss = record.diffusionLoss { parts.append(String(format: "diffusion %.4f", loss)) }
    parts.append(String(format: "norm %.3f", record.gradientNorm))
    parts.append(String(format: "rate %.3g", record.learningRate))
    if let speed = report.tokensPerSecond { parts.append(String(format: "%.0f tokens/s", speed)) }
    if let seconds = history.steps.last?.seconds { parts.append(String(format: "%.2f s", seconds)) }
    if let left = report.secondsLeft, left >= 1 { parts.append("\(PlanReport.duration(left)) left") }
    log.info("\(parts.joined(separator: "  "))")
    progress(report)
  }
}

extension CoordinatorDirective {
  fileprivate var isEnd: Bool { if case .finish = self { true } else { false } }
}
