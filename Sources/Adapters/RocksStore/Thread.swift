import Glibc

/// Lets another thread run.
func yieldThread() { _ = usleep(1000) }
