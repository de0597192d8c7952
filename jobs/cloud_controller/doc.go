// Package cloudcontroller is the cloud controller: the REST API that users push
// apps through, and the commands to DEAs and stagers that follow from it. Both are
// those of the original (docs/protocol.md).
// It keeps its state in a database (internal/store) and apps' packages and
// droplets in folders (internal/blob), so that several controllers serve side by
// side. README.md says what is where.
package cloudcontroller
