import Checkpoints
import ClusterModel
import Foundation
import Testing

/// Programs that are not ours read what we write.
@Suite struct OtherReadersTests {
  @Test(.enabled(if: Tool.python != nil, "no Python with h5py and NumPy: set TRANSFUSION_PYTHON to one"))
  func h5pyReadsEveryTensorAndExportsAgree() throws {
    let python = try #require(Tool.python)
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let manifest = try Sample.write(store, step: 20)
    let reader = CheckpointReader(store: store, manifest: manifest)
    for (index, path) in manifest.tensorPaths.enumerated() {
      try reader.export(path, to: directory("\(index).npy"), format: .npy)
      try reader.export(path, to: directory("\(index).raw"), format: .raw)
    }
    let script = """
      import hashlib, json, sys, h5py, numpy
      base, folder = sys.argv[1:]
      manifest = json.load(open(folder + '/manifest.json'))
      state = hashlib.sha256(b'transfusion-state-v1\\n%d\\n' % manifest['step'])
      for index, (path, tensor) in enumerate(sorted(manifest['tensors'].items())):
          with h5py.File(folder + '/' + tensor['file'], 'r') as file:
              assert file.attrs['step'] == manifest['step']
              data = file[path]
              assert data.dtype == '<f4' and list(data.shape) == tensor['shape'], path
              values = data[()]
          exported = numpy.load(f'{base}/{index}.npy')
          assert exported.dtype == '<f4' and exported.shape == values.shape and (exported == values).all(), path
          assert values.tobytes() == open(f'{base}/{index}.raw', 'rb').read(), path
          assert hashlib.sha256(values.tobytes()).hexdigest() == tensor['sha256'], path
          shape = ','.join(str(size) for size in values.shape)
          state.update(f'{path} {shape} {tensor["sha256"]}\\n'.encode())
      for name, file in manifest['files'].items():
          bytes = open(folder + '/' + name, 'rb').read()
          assert len(bytes) == file['sizeBytes'] and hashlib.sha256(bytes).hexdigest() == file['sha256'], name
      print(state.hexdigest())
      """
    let result = try Tool.run(python, ["-c", script, directory.path, store.directory(of: 20)])
    #expect(result.status == 0, "\(result.output)")
    #expect(result.output == manifest.digest + "\n")
  }

  @Test(.enabled(if: Tool.h5dump != nil, "h5dump is not installed (Debian: hdf5-tools)"))
  func h5dumpReadsEveryTensor() throws {
    let h5dump = try #require(Tool.h5dump)
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let manifest = try Sample.write(store, step: 20)
    for (path, tensor) in manifest.tensors {
      let output = directory("out.bin")
      let file = store.directory(of: 20) + "/" + tensor.file
      let result = try Tool.run(h5dump, ["-d", path, "-b", "LE", "-o", output, file])
      #expect(result.status == 0, "\(result.output)")
      #expect(result.output.contains("H5T_IEEE_F32LE"))
      #expect(try Damage.bytes(output) == Sample.values(path, step: 20).withUnsafeBytes { Array($0) })
    }
  }

  @Test func exportsOfDamagedTensorsLeaveNothing() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let manifest = try Sample.write(store, step: 20, files: 1)
    let file = store.directory(of: 20) + "/worker-0001.h5"
    var bytes = try Damage.bytes(file)
    let values = Sample.values("/parameters/model.norm.weight", step: 20).withUnsafeBytes { Array($0) }
    let offset = try #require(
      bytes.indices.first { bytes.count - $0 >= values.count && bytes[$0..<$0 + values.count].elementsEqual(values) })
    bytes[offset] ^= 1
    try Damage.put(bytes, file)
    #expect(throws: CheckpointError.self) {
      try CheckpointReader(store: store, manifest: manifest).export(
        "/parameters/model.norm.weight", to: directory("out.npy"), format: .npy)
    }
    #expect(try Damage.names(directory.path) == ["checkpoints"])
  }
}
