// Package jobs is the built-in jobs as data: what the deployer reads of them.
// Their programs are packages below; nothing of them is imported here.
package jobs

import "embed"

// FS holds a folder a job: job.hcl and templates/.
//
//go:embed */job.hcl */templates
var FS embed.FS
