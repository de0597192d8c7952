// Package lifecycle keeps snapshots of a node's instances: files with what is in an
// instance, which its owner, or a schedule, has made, and to which the owner can go back.
//
// jobs.go decides which job works and how it ends, schedule.go when one is due: both are
// pure. vault.go has the files, desk.go the records of jobs; keeper.go, where to begin
// reading, does the work. serialized.go makes snapshots into files for their owner and takes
// files to import, which come piece by piece (upload.go). node, its neighbour, knows the
// instances.
package lifecycle
