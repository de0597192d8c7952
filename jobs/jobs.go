// Package jobs holds the built-in jobs as data: for each its job.hcl and its
// templates. Their programs are packages below this one.
package jobs

import "embed"

// FS has one folder a job.
//
//go:embed */job.hcl */templates/*
var FS embed.FS
