import ClusterModel
import Digests

/// The topology-free digest of a state: it depends on the tensors and the step alone, not on how they lie in
/// files.
///
/// SHA-256 over `transfusion-state-v1`, a newline, the step in decimal, a newline, and then for each tensor in
/// byte order of its path one line: path, space, dimensions in decimal separated by commas, space, SHA-256
/// of its little-endian row-major bytes in hexadecimal.
public enum StateDigest {
  public static func digest(
    step: Step, tensors: [(path: String, shape: [Int], sha256: String)]
  ) -> SHA256Digest {
    var hash = SHA256()
    hash.update("transfusion-state-v1\n\(step)\n")
    for tensor in tensors.sorted(by: { $0.path.utf8.lexicographicallyPrecedes($1.path.utf8) }) {
      let shape = tensor.shape.map { String($0) }.joined(separator: ",")
      hash.update("\(tensor.path) \(shape) \(tensor.sha256)\n")
    }
    return hash.finish()
  }
}
