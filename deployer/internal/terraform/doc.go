// Package terraform runs a Terraform engine (terraform or OpenTofu) for one
// deployment: it finds or builds the engine (find.go, build.go), writes the
// root module that calls a template (root.go), plans, applies and destroys
// (runner.go), and speaks the contract of templates/CONTRACT.md (contract.go).
// The engine's state stays the engine's own business.
package terraform
