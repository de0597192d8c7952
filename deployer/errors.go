package deployer

import (
	"bytes"
	"fmt"

	"github.com/hashicorp/hcl/v2"
)

// ManifestError is a manifest that cannot be used: all its problems, with the
// sources to show them in.
type ManifestError struct {
	Diagnostics hcl.Diagnostics
	Files       map[string]*hcl.File
}

// Error is the problems as a terminal without colour shows them.
func (e *ManifestError) Error() string {
	var b bytes.Buffer
	e.Write(&b, 78, false)
	return b.String()
}

// Write prints the problems with their source lines.
func (e *ManifestError) Write(b *bytes.Buffer, width uint, color bool) {
	if err := hcl.NewDiagnosticTextWriter(b, e.Files, width, color).WriteDiagnostics(e.Diagnostics); err != nil {
		fmt.Fprintf(b, "%s", e.Diagnostics.Error()) // a bytes.Buffer does not fail
	}
}

// ErrNotApproved is returned by Apply and Destroy when the user said no.
var ErrNotApproved = fmt.Errorf("not approved: nothing was changed")
