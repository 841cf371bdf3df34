import Foundation
import Testing

/// Arrows point down only: what each module of ours may import. Foundation and the C library are free
/// except where a module is pure.
@Suite struct ImportTableTests {
  static let table: [String: Set<String>] = [
    "ClusterModel": [],
    "Randomness": [],
    "KernelInterface": [],
    "Schedules": ["ClusterModel"],
    "Tracing": ["ClusterModel"],
    "Wire": ["ClusterModel", "Tracing"],
    "ControlPlane": ["ClusterModel", "Schedules", "Wire"],
    "Simulation": ["ClusterModel", "ControlPlane", "Wire"],
    "Digests": ["CSystem"],
    "Kernels": ["KernelInterface", "CVector"], "KernelsAVX2": ["KernelInterface", "CVector"],
    "KernelsAVX512": ["KernelInterface", "CVector"], "KernelsAVX512BF16": ["KernelInterface", "CVector"],
    "KernelsAMX": ["KernelInterface", "CTiles"],
    "Compute": [
      "KernelInterface", "Kernels", "KernelsAVX2", "KernelsAVX512", "KernelsAVX512BF16", "KernelsAMX", "COneDNN",
      "CProcessor",
    ],
    "TransfusionModel": ["Compute", "Randomness"],
    "Optimizers": ["Compute"],
    "TrainingData": ["ClusterModel", "TransfusionModel", "Randomness", "Digests", "CSentencePiece", "CImages"],
    "HDF5": ["CHDF5"],
    "ModelVerification": ["TransfusionModel", "Compute", "Optimizers", "HDF5"],
    "Checkpoints": ["ClusterModel", "HDF5", "Digests", "CSystem"],
    "Transport": ["ClusterModel", "Wire", "CZeroMQ", "CSystem"],
    "Keys": ["Transport"],
    "Collectives": ["ClusterModel", "Compute"],
    "Configuration": ["ClusterModel", "TransfusionModel", "Optimizers", "TrainingData"],
    "Coordinator": [
      "ClusterModel", "Schedules", "Wire", "ControlPlane", "Transport", "Keys", "Checkpoints", "Tracing", "CSystem",
    ],
    "Benchmarks": [
      "ClusterModel", "Wire", "Transport", "Collectives", "Compute", "TransfusionModel", "Optimizers", "Randomness",
      "TrainingData", "Configuration", "ControlPlane", "Coordinator", "Worker",
    ],
    "Worker": [
      "ClusterModel", "Schedules", "Wire", "ControlPlane", "Transport", "Collectives", "Checkpoints", "Compute",
      "TransfusionModel",
      "Optimizers", "TrainingData", "Configuration", "Tracing", "CSystem",
    ],
  ]
  /// The owner of each C library: nobody else imports it.
  static let owners: [String: Set<String>] = [
    "CZeroMQ": ["Transport"], "CHDF5": ["HDF5"], "COneDNN": ["Compute"], "CSentencePiece": ["TrainingData"],
    "CImages": ["TrainingData"], "CProcessor": ["Compute"],
    "CVector": ["Kernels", "KernelsAVX2", "KernelsAVX512", "KernelsAVX512BF16"],
    "CTiles": ["KernelsAMX"],
  ]
  /// Modules without sockets, files, clocks or randomness: they import nothing that has them.
  static let pure: Set<String> = ["ClusterModel", "Schedules", "ControlPlane", "Simulation"]

  static func imports(_ file: SourceTree.File) -> [String] {
    SourceTree.code(file).compactMap { _, text in
      guard let match = text.firstMatch(of: #/^\s*(?:@\w+\s+|public\s+|package\s+)*import\s+(?:\w+\s+)?(\w+)/#) else {
        return nil
      }
      return String(match.1)
    }
  }

  @Test func modulesImportOnlyWhatTheTableAllows() throws {
    let tree = try SourceTree()
    let ours = Set(tree.files.map(\.module)).union(Self.table.keys).union(Self.owners.keys).union(["CSystem"])
    #expect(tree.files.count > 40)
    for file in tree.files where file.module != "transfusion" {
      guard let allowed = Self.table[file.module] else {
        Issue.record("module \(file.module) is not in the import table")
        continue
      }
      for name in Self.imports(file) where ours.contains(name) {
        #expect(allowed.contains(name), "\(file.path) imports \(name)")
      }
    }
  }

  /// Package.swift names just what is imported: nothing by accident of the build order, nothing unused.
  @Test func packageDependenciesAreTheImports() throws {
    let tree = try SourceTree()
    let manifest = try String(contentsOf: tree.root.appending(path: "Package.swift"), encoding: .utf8)
    let target = #/\.(?:target|executableTarget)\(\s*name: "(\w+)",\s*dependencies: \[(.*?)\](?: \+ (\w+))?/#
      .dotMatchesNewlines()
    var checked = 0
    for match in manifest.matches(of: target) {
      let module = String(match.1)
      let listed = String(match.2).replacing(#/package: "[^"]*"/#, with: "")
      var dependencies = Set(listed.matches(of: #/"(\w+)"/#).map { String($0.1) })
      if match.3 == "kernelDependencies" {
        dependencies.formUnion(["Kernels", "KernelsAVX2", "KernelsAVX512", "KernelsAVX512BF16", "KernelsAMX"])
      }
      let imports = Set(tree.files.filter { $0.module == module }.flatMap(Self.imports))
      guard !imports.isEmpty else { continue }  // the C targets
      checked += 1
      let unused = dependencies.subtracting(imports)
      #expect(unused.isEmpty, "\(module) lists \(unused.sorted()) and does not import them")
      let ours = imports.intersection(Self.table.keys).subtracting(dependencies)
      #expect(ours.isEmpty, "\(module) imports \(ours.sorted()), which Package.swift does not list")
    }
    #expect(checked > 15)
  }

  @Test func everyCLibraryHasOneOwner() throws {
    for file in try SourceTree().files {
      for name in Self.imports(file) {
        if let owner = Self.owners[name] { #expect(owner.contains(file.module), "\(file.path) imports \(name)") }
      }
    }
  }

  @Test func pureModulesImportNoInputOutput() throws {
    let forbidden: Set<String> = ["Foundation", "Glibc", "Dispatch", "Logging", "Synchronization"]
    for file in try SourceTree().files where Self.pure.contains(file.module) {
      for name in Self.imports(file) { #expect(!forbidden.contains(name), "\(file.path) imports \(name)") }
    }
  }
}
