// Package syntax reads HCL as manifests and job files use it: decoding by schema,
// references, types, and diagnostics that name what is meant.
package syntax
