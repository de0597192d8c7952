// What an app prints goes into a pipe. Node.js keeps in memory what a pipe does not
// take at once, without bound: an app that prints faster than it is read would be ended
// for its memory. With this it waits, as programs in other languages do.
for (const stream of [process.stdout, process.stderr]) {
  try {
    stream._handle.setBlocking(true);
  } catch {
    // It is a file, or closed: there is nothing to wait for.
  }
}
