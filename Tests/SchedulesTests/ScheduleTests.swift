import ClusterModel
import Schedules
import Testing

@Suite("Schedules") struct ScheduleTests {
  @Test("every generated schedule is valid, needs no more slots than it claims and keeps backwards ascending")
  func generatedAreValid() throws {
    for kind in ScheduleKind.allCases {
      for stages in 1...6 {
        for microbatches in 1...9 {
          let schedule = Schedule.training(kind, stages: stages, microbatches: microbatches)
          try schedule.validate()
          for (index, stage) in schedule.stages.enumerated() {
            let expected =
              switch kind {
              case .gpipe: microbatches
              case .oneForwardOneBackward: min(microbatches, index == stages - 1 ? 1 : stages - index + 1)
              }
            #expect(stage.slots == expected)
          }
        }
      }
    }
  }

  @Test("evaluation needs one slot and may be empty") func evaluation() throws {
    for stages in 1...4 {
      for microbatches in 0...3 {
        let schedule = Schedule.evaluation(stages: stages, microbatches: microbatches)
        try schedule.validate()
        #expect(schedule.slots == min(1, microbatches))
      }
    }
  }

  @Test("a slot is never shared by two live microbatches") func slotsAreExclusive() {
    let schedule = Schedule.training(.oneForwardOneBackward, stages: 4, microbatches: 7)
    for stage in schedule.stages {
      var owner = [Int?](repeating: nil, count: stage.slots)
      for (index, action) in stage.actions.enumerated() {
        guard let m = action.microbatch else { continue }
        let slot = stage.slot(for: m)
        #expect(owner[slot] == nil || owner[slot] == m)
        let more = stage.actions[(index + 1)...].contains { $0.microbatch == m }
        owner[slot] = more ? m : nil
      }
    }
  }

  @Test("1F1B over two stages is the textbook list with one more forward ahead") func twoStages() {
    let schedule = Schedule.training(.oneForwardOneBackward, stages: 2, microbatches: 2)
    #expect(
      schedule.stages[0].actions.map(\.description).joined(separator: " ")
        == "F0 sendA0 F1 sendA1 recvG0 B0 recvG1 B1 reduce update")
    #expect(
      schedule.stages[1].actions.map(\.description).joined(separator: " ")
        == "recvA0 F0 B0 sendG0 recvA1 F1 B1 sendG1 reduce update")
  }

  @Test("the grid shows warm-up, steady state and cool-down") func grid() {
    let schedule = Schedule.training(.oneForwardOneBackward, stages: 2, microbatches: 3)
    #expect(
      schedule.grid() == """
        stage 0 | F0 F1 F2 .  B0 B0 .  B1 B1 .  B2 B2
        stage 1 | .  F0 B0 B0 F1 B1 B1 F2 B2 B2 .  .
        """)
    #expect(schedule.grid(columns: 3).hasSuffix("stage 1 | .  F0 B0 ..."))
  }

  @Test("messages that take a while cost their time once, not once a microbatch") func latencyIsHidden() {
    // A stage between the two that only passes on: its cost is the time of a message.
    let schedule = Schedule.training(.oneForwardOneBackward, stages: 3, microbatches: 16)
    let message = 0.3
    let costs = [
      StageCost(forward: 1, backward: 2), StageCost(forward: message, backward: message),
      StageCost(forward: 1, backward: 2),
    ]
    #expect(schedule.timeline(costs: costs).duration <= 3 * 17 + 2 * message + 1e-9)
  }

  @Test("the bubble of equal stages is (p - 1) / (n + p - 1)") func bubble() {
    for kind in ScheduleKind.allCases {
      let schedule = Schedule.training(kind, stages: 4, microbatches: 8)
      let costs = [StageCost](repeating: StageCost(forward: 1, backward: 2), count: 4)
      #expect(abs(schedule.bubbleFraction(costs: costs) - 3.0 / 11) < 1e-12)
    }
    let alone = Schedule.training(.gpipe, stages: 1, microbatches: 3)
    #expect(alone.bubbleFraction(costs: [StageCost(forward: 1, backward: 2)]) == 0)
  }
}

@Suite("Schedule validation") struct ScheduleValidationTests {
  private func refusal(_ stages: [[ScheduleAction]], microbatches: Int) -> ScheduleError? {
    do throws(ScheduleError) {
      try Schedule(purpose: .training, microbatches: microbatches, stages: stages).validate()
      return nil
    } catch { return error }
  }

  @Test("a backward before its forward is refused") func backwardFirst() {
    #expect(
      refusal([[.backward(0), .forward(0), .reduce, .update]], microbatches: 1)
        == .tooEarly(stage: 0, action: .backward(0), needs: .forward(0)))
  }
  @Test("a missing and a repeated action are refused") func missing() {
    #expect(
      refusal([[.forward(0), .backward(0), .update]], microbatches: 1) == .missing(stage: 0, action: .reduce))
    #expect(
      refusal([[.forward(0), .forward(0), .backward(0), .reduce, .update]], microbatches: 1)
        == .repeated(stage: 0, action: .forward(0)))
  }
  @Test("microbatches outside the replica and sends without a neighbour are refused") func outOfPlace() {
    #expect(
      refusal([[.forward(1), .backward(1), .reduce, .update]], microbatches: 1)
        == .unknownMicrobatch(stage: 0, action: .forward(1), microbatches: 1))
    #expect(
      refusal([[.forward(0), .sendActivation(0), .backward(0), .reduce, .update]], microbatches: 1)
        == .actionOutOfPlace(stage: 0, action: .sendActivation(0)))
  }
  @Test("descending backwards are refused") func descending() {
    #expect(
      refusal([[.forward(0), .forward(1), .backward(1), .backward(0), .reduce, .update]], microbatches: 2)
        == .backwardsNotAscending(stage: 0, microbatch: 0))
  }
  @Test("receiving in another order than sent is refused") func order() {
    let first: [ScheduleAction] = [
      .forward(0), .sendActivation(0), .forward(1), .sendActivation(1), .receiveGradient(0), .backward(0),
      .receiveGradient(1), .backward(1), .reduce, .update,
    ]
    let second: [ScheduleAction] = [
      .receiveActivation(1), .forward(1), .receiveActivation(0), .forward(0), .backward(0), .sendGradient(0),
      .backward(1), .sendGradient(1), .reduce, .update,
    ]
    #expect(
      refusal([first, second], microbatches: 2)
        == .orderMismatch(stage: 0, sends: [0, 1], receiver: 1, receives: [1, 0]))
  }
  @Test("a circular wait is refused and names where each stage stands") func deadlock() {
    // Stage 0 wants gradient 0 before it sends activation 1; stage 1 wants both activations first.
    let first: [ScheduleAction] = [
      .forward(0), .sendActivation(0), .receiveGradient(0), .backward(0), .forward(1), .sendActivation(1),
      .receiveGradient(1), .backward(1), .reduce, .update,
    ]
    let second: [ScheduleAction] = [
      .receiveActivation(0), .forward(0), .receiveActivation(1), .forward(1), .backward(0), .sendGradient(0),
      .backward(1), .sendGradient(1), .reduce, .update,
    ]
    #expect(
      refusal([first, second], microbatches: 2)
        == .deadlock(waiting: [
          .init(stage: 0, action: .receiveGradient(0)), .init(stage: 1, action: .receiveActivation(1)),
        ]))
  }
}
