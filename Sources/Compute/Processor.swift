import CProcessor
import KernelInterface
import Kernels

#if arch(x86_64)
  import KernelsAVX2
  import KernelsAVX512
  import KernelsAVX512BF16
  import KernelsAMX
#endif

/// Picks the build of the kernels for this processor.
enum Processor {
  /// The best instruction set that both the processor and the kernels have.
  static var best: InstructionSet? {
    #if arch(x86_64)
      if processor_has_avx512() { return .avx512 }
      return processor_has_avx2_fma() ? .avx2 : nil
    #else
      return .portable
    #endif
  }

  /// The kernels of `wanted`, or of the best set where nil.
  static func kernels(_ wanted: InstructionSet?) throws(DeviceError) -> (InstructionSet, KernelTable) {
    guard let best else {
      throw .unsupportedProcessor(
        needs: "the compute kernels need AVX2 and FMA, which this processor (or its operating system) lacks; "
          + "use an x86-64 machine of 2013 or later")
    }
    let chosen = wanted ?? best
    switch chosen {
    case .portable: return (chosen, Kernels.kernelTable)
    #if arch(x86_64)
      case .avx2: return (chosen, KernelsAVX2.kernelTable)
      case .avx512 where best == .avx512: return (chosen, KernelsAVX512.kernelTable)
    #endif
    default:
      throw .unsupportedProcessor(
        needs: "the kernels for \(chosen.rawValue) do not run on this processor; use \(best.rawValue)")
    }
  }

  /// The products that kernels of our own make faster than oneDNN 2.6.
  static func productKernels(_ chosen: InstructionSet) -> OwnProducts {
    #if arch(x86_64)
      switch chosen {
      case .portable: return OwnProducts()
      case .avx2:
        return OwnProducts(
          float32: KernelsAVX2.productKernels, bfloat16: KernelsAVX2.widenedKernels, name: "+float32+widened")
      case .avx512: break
      }
      var own = OwnProducts(float32: KernelsAVX512.productKernels, name: "+float32")
      if processor_has_amx_bf16() {
        own.bfloat16 = KernelsAMX.tileKernels
        own.name += "+tiles"
      } else if processor_has_avx512_bf16() {
        own.bfloat16 = KernelsAVX512BF16.pairKernels
        own.name += "+pairs"
      }
      return own
    #else
      return OwnProducts()
    #endif
  }

  static var architecture: String {
    #if arch(x86_64)
      "x86-64"
    #elseif arch(arm64)
      "arm64"
    #else
      "other"
    #endif
  }
}
