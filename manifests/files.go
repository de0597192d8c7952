package manifests

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// reader parses the files of a manifest.
type reader struct {
	m      *Manifest
	prefix string // see Options.Prefix
	bodies []*hclsyntax.Body
	diags  hcl.Diagnostics
}

// read parses the manifest's files; false means that there is nothing sound to
// decode.
func (r *reader) read(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		r.unreadable("Cannot read manifest", err, "Name a .hcl file or a folder of .hcl files.")
		return false
	}
	files := []string{name}
	if info.IsDir() {
		entries, err := fs.ReadDir(fsys, name)
		if err != nil {
			r.unreadable("Cannot read manifest", err, "Check the folder's permissions.")
			return false
		}
		files = nil
		for _, e := range entries {
			if !e.IsDir() && strings.HasSuffix(e.Name(), ".hcl") && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, path.Join(name, e.Name()))
			}
		}
		if len(files) == 0 {
			r.unreadable("No manifest", fmt.Errorf("the folder %s holds no .hcl file", r.path(name)), "A manifest begins with a deployment block.")
			return false
		}
	}
	var overrides []*hclsyntax.Body
	for _, name := range files {
		source, err := fs.ReadFile(fsys, name)
		if err != nil {
			r.unreadable("Cannot read file", err, "Check its path and permissions.")
			continue
		}
		r.m.Sources[name] = source
		body := r.parse(source, r.path(name))
		switch {
		case body == nil:
		case info.IsDir() && isOverride(name):
			overrides = append(overrides, body)
		default:
			r.bodies = append(r.bodies, body)
		}
	}
	if r.diags.HasErrors() {
		return false
	}
	for _, body := range overrides {
		r.override(body)
	}
	return true
}

func isOverride(name string) bool {
	base := path.Base(name)
	return base == "override.hcl" || strings.HasSuffix(base, "_override.hcl")
}

// parse reads one file of HCL; nil if that was not possible.
func (r *reader) parse(source []byte, filename string) *hclsyntax.Body {
	file, body, diags := syntax.ParseConfig(source, filename)
	r.m.Files[filename] = file
	r.report(diags...)
	return body
}

// override merges a file into the others: blocks by kind and label.
func (r *reader) override(over *hclsyntax.Body) {
	for _, o := range over.Blocks {
		var same []*hclsyntax.Block
		var others []string
		for _, body := range r.bodies {
			for _, b := range body.Blocks {
				if b.Type != o.Type {
					continue
				}
				if slices.Equal(b.Labels, o.Labels) {
					same = append(same, b)
				}
				others = append(others, strings.Join(b.Labels, " "))
			}
		}
		switch {
		case o.Type == "locals":
			overrideLocals(same, o)
			if len(same) == 0 {
				r.bodies = append(r.bodies, &hclsyntax.Body{Blocks: hclsyntax.Blocks{o}})
			}
		case len(same) > 0:
			mergeBody(same[0].Body, o.Body)
		case o.Type == "infrastructure" && len(others) == 1:
			// Another infrastructure altogether: its settings are no addition to
			// the other one's.
			for _, body := range r.bodies {
				for i, b := range body.Blocks {
					if b.Type == o.Type {
						body.Blocks[i] = o
					}
				}
			}
		case len(o.Labels) == 0:
			r.bodies = append(r.bodies, &hclsyntax.Body{Blocks: hclsyntax.Blocks{o}})
		default:
			label := strings.Join(o.Labels, " ")
			r.report(syntax.Problem("Nothing to override",
				fmt.Sprintf("No other file has a block %s %q. %s", o.Type, label, syntax.Suggest(label, others, o.Type+" block")), o.DefRange()))
		}
	}
	for _, a := range over.Attributes {
		r.report(syntax.Problem("Unsupported argument", fmt.Sprintf("A manifest has no argument %q outside of its blocks.", a.Name), a.NameRange))
	}
}

func overrideLocals(base []*hclsyntax.Block, over *hclsyntax.Block) {
	for name, a := range over.Body.Attributes {
		target := (*hclsyntax.Block)(nil)
		for _, b := range base {
			if target == nil || b.Body.Attributes[name] != nil {
				target = b
			}
		}
		if target != nil {
			target.Body.Attributes[name] = a
		}
	}
}

// mergeBody lets the attributes and blocks of one body replace those of
// another, block by block where kind and labels are the same.
func mergeBody(base, over *hclsyntax.Body) {
	for name, a := range over.Attributes {
		base.Attributes[name] = a
	}
	for _, o := range over.Blocks {
		i := slices.IndexFunc(base.Blocks, func(b *hclsyntax.Block) bool {
			return b.Type == o.Type && slices.Equal(b.Labels, o.Labels)
		})
		if i < 0 {
			base.Blocks = append(base.Blocks, o)
		} else {
			mergeBody(base.Blocks[i].Body, o.Body)
		}
	}
}

// path returns the path that the user knows a file of the manifest by.
func (r *reader) path(name string) string {
	if name == "." {
		return path.Clean(r.prefix + name)
	}
	return r.prefix + name
}

// unreadable reports a file or folder of the manifest that could not be read.
func (r *reader) unreadable(summary string, err error, do string) {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = fmt.Errorf("%s: %w", r.path(at.Path), at.Err)
	}
	r.report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf("%v. %s", err, do)})
}

func (r *reader) report(diags ...*hcl.Diagnostic) { r.diags = append(r.diags, diags...) }
