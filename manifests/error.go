package manifests

import (
	"bytes"
	"fmt"

	"github.com/hashicorp/hcl/v2"
)

// Error is a manifest that cannot be used: all its problems, with the sources to
// show them in.
type Error struct {
	Diagnostics hcl.Diagnostics
	Files       map[string]*hcl.File
}

// Error returns the problems as a terminal without colour shows them.
func (e *Error) Error() string {
	var b bytes.Buffer
	e.Write(&b, 78, false)
	return b.String()
}

// Write prints the problems with their source lines.
func (e *Error) Write(b *bytes.Buffer, width uint, color bool) {
	if err := hcl.NewDiagnosticTextWriter(b, e.Files, width, color).WriteDiagnostics(e.Diagnostics); err != nil {
		fmt.Fprintf(b, "%s", e.Diagnostics.Error()) // a bytes.Buffer does not fail
	}
}
