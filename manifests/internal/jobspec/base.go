package jobspec

import (
	"fmt"
	"io/fs"
	"path"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// baseFile is the name of a base, in its folder below the folder of jobs.
const baseFile = "base.hcl"

// addBases gives a job the blocks of its bases: those that it does not have itself,
// and of a property what the job's own block of that name leaves out. jobs is the
// folder of jobs, prefix its path in diagnostics.
func (l *loader) addBases(body *hclsyntax.Body, jobs fs.FS, prefix string) {
	attr := body.Attributes["bases"]
	if attr == nil {
		return
	}
	own := body.Blocks // what two bases have is reported as any duplicate
	for _, folder := range l.Texts(hcl.Attributes{"bases": attr.AsHCLAttribute()}, "bases") {
		file := path.Join(folder, baseFile)
		source, err := fs.ReadFile(jobs, file)
		if err != nil {
			l.Report(syntax.Problem("Cannot read base",
				fmt.Sprintf("%q: %v. A base is a file %s in a folder below the folder of jobs.", folder, err, baseFile), attr.Expr.Range(), attr.SrcRange))
			continue
		}
		filename := path.Join(prefix, file)
		parsed, base, diags := syntax.ParseConfig(source, filename)
		l.job.Bases, l.job.Files[filename] = append(l.job.Bases, file), parsed
		l.Report(diags...)
		if diags.HasErrors() {
			continue
		}
		for name, a := range base.Attributes {
			l.Report(syntax.Problem("Unsupported argument", fmt.Sprintf("A base has blocks only; %q belongs into the job.", name), a.NameRange))
		}
		for _, b := range base.Blocks {
			switch mine := findBlock(own, b); {
			case mine == nil:
				body.Blocks = append(body.Blocks, b)
			case b.Type == "property":
				addMissing(mine.Body, b.Body)
			}
		}
	}
}
