"""What the operating system gives: files, locks, processes, semaphores, doorbells, fences, interrupts."""
