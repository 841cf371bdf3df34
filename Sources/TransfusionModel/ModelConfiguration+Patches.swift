extension ModelConfiguration {
  /// Latents [I, C, S, S] cut into patches [I * P, K]: raster order, within a patch (channel, row, column).
  public func cutIntoPatches<Element>(_ latents: [Element]) -> [Element] {
    let (size, side) = (latentSize, latentSize / patch)
    let elements = channels * size * size
    precondition(latents.count % elements == 0, "latents of another shape")
    var patches: [Element] = []
    patches.reserveCapacity(latents.count)
    for image in 0..<latents.count / elements {
      for patchRow in 0..<side {
        for patchColumn in 0..<side {
          for channel in 0..<channels {
            for row in 0..<patch {
              let start = image * elements + (channel * size + patchRow * patch + row) * size + patchColumn * patch
              patches += latents[start..<start + patch]
            }
          }
        }
      }
    }
    return patches
  }
}
