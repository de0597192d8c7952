// Package examples has manifests, apps and a job as users write them. Its tests (tag
// e2e) run the built programs with them.
package examples
