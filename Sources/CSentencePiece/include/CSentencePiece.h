// placeholder until the owner fills the shim
