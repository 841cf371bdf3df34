// swift-tools-version: 6.2
// The targets mirror the module table of docs/architecture.md: arrows point down only, and
// Tests/TidyTests checks that every import in Sources is one of the dependencies listed here.
import PackageDescription

/// Whether kernels of x86's instruction sets are built. The manifest runs where it is built; a build for another
/// architecture than this one's names it: `TRANSFUSION_ARCHITECTURE=aarch64 swift build --swift-sdk ...`.
#if arch(x86_64)
  let host = "x86_64"
#else
  let host = "other"
#endif
let isX86 = (Context.environment["TRANSFUSION_ARCHITECTURE"] ?? host) == "x86_64"

/// The SIMD loops are one set of sources compiled once per instruction set (the other folders hold links to the files of
/// the first, and how their registers hold a matrix product); `Compute` picks one at start.
let kernelTargets: [Target] =
  [
    .target(
      name: "Kernels", dependencies: ["KernelInterface", "CVector"], swiftSettings: [.unsafeFlags(["-Ounchecked"])])
  ]
  + (isX86
    ? [
      .target(
        name: "KernelsAVX2", dependencies: ["KernelInterface", "CVector"],
        swiftSettings: [.unsafeFlags(["-Ounchecked", "-Xcc", "-march=haswell"])]),
      .target(
        name: "KernelsAVX512", dependencies: ["KernelInterface", "CVector"],
        swiftSettings: [
          .unsafeFlags(["-Ounchecked", "-Xcc", "-march=skylake-avx512", "-Xcc", "-mprefer-vector-width=512"])
        ]),
      .target(
        name: "KernelsAVX512BF16", dependencies: ["KernelInterface", "CVector"],
        swiftSettings: [
          .unsafeFlags(["-Ounchecked", "-Xcc", "-march=cooperlake", "-Xcc", "-mprefer-vector-width=512"])
        ]),
      .target(name: "CTiles"),
      .target(
        name: "KernelsAMX", dependencies: ["KernelInterface", "CTiles"],
        swiftSettings: [.unsafeFlags(["-Ounchecked", "-Xcc", "-march=sapphirerapids"])]),
    ] : [])
let kernelDependencies: [Target.Dependency] =
  ["Kernels"] + (isX86 ? ["KernelsAVX2", "KernelsAVX512", "KernelsAVX512BF16", "KernelsAMX"] : [])

/// C boundary: one Swift owner each.
let boundaries: [Target] = [
  .systemLibrary(name: "CZeroMQ"),
  .target(name: "CHDF5", linkerSettings: [.linkedLibrary("hdf5_serial")]),
  .target(name: "COneDNN", linkerSettings: [.linkedLibrary("dnnl")]),
  .target(name: "CProcessor"),
  .target(name: "CVector"),
  .target(
    name: "CSentencePiece", cxxSettings: [.unsafeFlags(["-std=c++17"])],
    linkerSettings: [.linkedLibrary("sentencepiece"), .linkedLibrary("sentencepiece_train")]),
  .target(
    name: "CImages",
    linkerSettings: [.linkedLibrary("png"), .linkedLibrary("turbojpeg"), .linkedLibrary("harfbuzz")]),
  .target(name: "CSystem", linkerSettings: [.linkedLibrary("crypto")]),
]

let modules: [Target] = [
  // Pure: no sockets, files, clocks or randomness.
  .target(name: "ClusterModel"),
  .target(name: "Schedules", dependencies: ["ClusterModel"]),
  .target(name: "Tracing", dependencies: ["ClusterModel"]),
  .target(
    name: "Wire",
    dependencies: ["ClusterModel", "Tracing", .product(name: "SwiftProtobuf", package: "swift-protobuf")],
    exclude: ["Protos"]),
  .target(name: "ControlPlane", dependencies: ["ClusterModel", "Schedules", "Wire"]),
  .target(name: "Simulation", dependencies: ["ClusterModel", "ControlPlane", "Wire"]),
  .target(name: "Randomness"),
  .target(name: "Digests", dependencies: ["CSystem"]),

  // Compute.
  .target(name: "KernelInterface"),
  .target(name: "Compute", dependencies: ["COneDNN", "CProcessor", "KernelInterface"] + kernelDependencies),
  .target(name: "TransfusionModel", dependencies: ["Compute", "Randomness"]),
  .target(name: "Optimizers", dependencies: ["Compute"]),
  .target(
    name: "TrainingData",
    dependencies: ["ClusterModel", "TransfusionModel", "Randomness", "CSentencePiece", "CImages", "Digests"]),

  // Input and output.
  .target(name: "HDF5", dependencies: ["CHDF5"]),
  .target(name: "ModelVerification", dependencies: ["TransfusionModel", "Compute", "Optimizers", "HDF5"]),
  .target(name: "Checkpoints", dependencies: ["ClusterModel", "HDF5", "CSystem", "Digests"]),
  .target(name: "Transport", dependencies: ["ClusterModel", "Wire", "CZeroMQ", "CSystem"]),
  .target(name: "Keys", dependencies: ["Transport"]),
  .target(name: "Collectives", dependencies: ["ClusterModel", "Compute"]),
  .target(
    name: "Configuration",
    dependencies: [
      "ClusterModel", "TransfusionModel", "Optimizers", "TrainingData", .product(name: "Yams", package: "Yams"),
    ]),

  // The shells.
  .target(
    name: "Coordinator",
    dependencies: [
      "ClusterModel", "Wire", "ControlPlane", "Transport", "Keys", "Checkpoints", "Tracing",
      .product(name: "GRDB", package: "GRDB.swift"), .product(name: "Logging", package: "swift-log"),
    ]),
  .target(
    name: "Worker",
    dependencies: [
      "ClusterModel", "Schedules", "Wire", "ControlPlane", "Transport", "Collectives", "Checkpoints", "Compute",
      "TransfusionModel", "Optimizers", "TrainingData", "Configuration", "Tracing",
      .product(name: "Logging", package: "swift-log"),
    ]),
  .target(
    name: "Benchmarks",
    dependencies: [
      "ClusterModel", "Wire", "Transport", "Collectives", "Compute", "TransfusionModel", "Optimizers", "Randomness",
      "TrainingData", "Configuration", "ControlPlane", "Coordinator", "Worker",
    ]),
  .executableTarget(
    name: "transfusion",
    dependencies: [
      "Benchmarks", "ClusterModel", "Simulation", "ControlPlane", "Transport", "Keys", "Checkpoints", "HDF5",
      "Compute", "TransfusionModel",
      "ModelVerification", "TrainingData", "Configuration", "Coordinator", "Worker", "CSystem",
      .product(name: "ArgumentParser", package: "swift-argument-parser"),
      .product(name: "Logging", package: "swift-log"),
      .product(name: "UnixSignals", package: "swift-service-lifecycle"),
    ]),
]

/// One target per module, end to end on real processes, tidy.
let tests: [Target] = [
  .testTarget(name: "ClusterModelTests", dependencies: ["ClusterModel"]),
  .testTarget(name: "SchedulesTests", dependencies: ["Schedules", "ClusterModel"]),
  .testTarget(name: "TracingTests", dependencies: ["Tracing", "ClusterModel"]),
  .testTarget(name: "WireTests", dependencies: ["Wire", "ClusterModel", "Tracing"]),
  .testTarget(
    name: "ControlPlaneTests", dependencies: ["ControlPlane", "ClusterModel", "Schedules", "Wire"],
    exclude: ["Scenarios"]),
  .testTarget(name: "SimulationTests", dependencies: ["Simulation", "ControlPlane"]),
  .testTarget(name: "RandomnessTests", dependencies: ["Randomness"]),
  .testTarget(name: "ComputeTests", dependencies: ["Compute", "KernelInterface", "Randomness"] + kernelDependencies),
  .testTarget(
    name: "TransfusionModelTests", dependencies: ["TransfusionModel", "ModelVerification", "Compute", "Randomness"],
    resources: [.copy("Fixtures")]),
  .testTarget(name: "OptimizersTests", dependencies: ["Optimizers", "Compute"]),
  .testTarget(
    name: "TrainingDataTests", dependencies: ["TrainingData", "ClusterModel", "TransfusionModel", "Randomness"]),
  .testTarget(name: "TransportTests", dependencies: ["Transport", "Wire", "ClusterModel", "CZeroMQ", "CSystem"]),
  .testTarget(name: "KeysTests", dependencies: ["Keys", "Transport"]),
  .testTarget(name: "CollectivesTests", dependencies: ["Collectives", "ClusterModel", "Compute"]),
  .testTarget(name: "CheckpointsTests", dependencies: ["Checkpoints", "HDF5", "CHDF5", "ClusterModel", "Digests"]),
  .testTarget(name: "ConfigurationTests", dependencies: ["Configuration"]),
  .testTarget(
    name: "CoordinatorTests",
    dependencies: [
      "Coordinator", "ControlPlane", "ClusterModel", "Wire", "Transport", "Keys", "Checkpoints",
      .product(name: "GRDB", package: "GRDB.swift"), .product(name: "Logging", package: "swift-log"),
    ]),
  .testTarget(
    name: "WorkerTests",
    dependencies: ["Worker", "Compute", "ClusterModel", "Collectives", "Transport"]),
  // Counts allocations and copies in the test process; the linker sends our own copies through it.
  .target(name: "CCounters", path: "Tests/CCounters"),
  .testTarget(
    name: "BenchmarksTests",
    dependencies: ["Benchmarks", "Compute", "KernelInterface", "TransfusionModel", "Transport", "CCounters"],
    linkerSettings: [
      .unsafeFlags(
        ["memcpy", "memmove", "memset"].flatMap { ["-Xlinker", "--wrap=\($0)"] }, .when(platforms: [.linux]))
    ]),
  .testTarget(name: "EndToEndTests"),
  // Fuzzing: a program of its own, because what it finds ends the process. ops/fuzz and FuzzTests run it.
  .target(name: "CFuzzWatch", path: "Tests/Fuzz/Watch"),
  .target(
    name: "FuzzTargets",
    dependencies: [
      "Wire", "Transport", "Checkpoints", "HDF5", "ModelVerification", "Configuration", "Coordinator", "TrainingData",
      "ClusterModel", "Digests", "Keys",
    ], path: "Tests/Fuzz/Targets"),
  .executableTarget(
    name: "fuzz",
    dependencies: [
      "FuzzTargets", "CFuzzWatch", .product(name: "ArgumentParser", package: "swift-argument-parser"),
    ], path: "Tests/Fuzz/Program"),
  .testTarget(name: "FuzzTests"),
  .testTarget(name: "TidyTests"),
]

let package = Package(
  name: "transfusion",
  platforms: [.macOS(.v15)],
  products: [.executable(name: "transfusion", targets: ["transfusion"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
  ],
  targets: kernelTargets + boundaries + modules + tests,
  swiftLanguageModes: [.v6]
)
