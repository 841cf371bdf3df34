#include "crc32c.h"
#include "wakeup.h"
