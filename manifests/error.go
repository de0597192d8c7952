package manifests

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

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
	diags := slices.Clone(e.Diagnostics)
	for i, d := range diags {
		if d.Subject != nil && e.Files[d.Subject.Filename] != nil && !strings.HasSuffix(d.Subject.Filename, ".hcl") {
			shown := *d
			shown.Context = around(e.Files[d.Subject.Filename].Bytes, *d.Subject)
			diags[i] = &shown
		}
	}
	if err := hcl.NewDiagnosticTextWriter(b, e.Files, width, color).WriteDiagnostics(diags); err != nil {
		fmt.Fprintf(b, "%s", e.Diagnostics.Error()) // a bytes.Buffer does not fail
	}
}

// linesAround is the number of lines that are shown before and after the place of a problem
// in a template.
const linesAround = 2

// around returns the lines of a problem with a few before and after: in HCL the
// block tells where one is, in a template only the text does.
func around(source []byte, at hcl.Range) *hcl.Range {
	begin, end := min(at.Start.Byte, len(source)), min(at.End.Byte, len(source))
	for n := 0; begin > 0; begin-- {
		if source[begin-1] == '\n' {
			if n++; n > linesAround {
				break
			}
		}
	}
	for n := 0; end < len(source); end++ {
		if source[end] == '\n' {
			if n++; n > linesAround {
				break
			}
		}
	}
	line := 1 + bytes.Count(source[:begin], []byte("\n"))
	return &hcl.Range{
		Filename: at.Filename,
		Start:    hcl.Pos{Line: line, Column: 1, Byte: begin},
		End:      hcl.Pos{Line: line + bytes.Count(source[begin:end], []byte("\n")), Column: 1, Byte: end},
	}
}
