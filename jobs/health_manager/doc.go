// Package healthmanager keeps apps as their users want them. It reads the wanted
// state from the cloud controllers' bulk API and the actual one from the DEAs'
// heartbeats and exit messages, and asks the cloud controllers to start missing
// instances and to stop surplus ones. The original's rules and intervals are in
// docs/protocol.md, the differences in README.md.
//
// state.go keeps what was heard, analysis.go judges it: both are plain data and
// arithmetic, without a clock, a lock or the bus. queue.go orders the starts,
// election.go says which of several health managers acts, desired.go reads the
// bulk API, manager.go ties them to the bus.
package healthmanager
