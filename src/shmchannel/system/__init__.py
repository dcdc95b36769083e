"""The operating system's part: files, locks, processes, semaphores, doorbells, fences, interrupts."""
