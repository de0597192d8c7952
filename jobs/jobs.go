// Package jobs holds the built-in jobs as data: for each its job.hcl and its
// templates. Their programs are packages below this one.
package jobs

import "embed"

// FS has one folder a job, and in component the bases that jobs share.
//
//go:embed */job.hcl */templates/* component/*/base.hcl component/node/*/base.hcl
var FS embed.FS
