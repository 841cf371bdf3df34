#include "durability.h"
#include "sha256.h"
#include "processes.h"
