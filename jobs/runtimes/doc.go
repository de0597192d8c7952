// Package runtimes knows what apps are made with: the usual runtimes and
// frameworks, and which runtimes this machine really has. The DEA and the stager
// look for a runtime in the same way, so that what was staged can run; the cloud
// controller tells users which there are.
package runtimes
