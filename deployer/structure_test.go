package deployer_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// The bounds of a package, tests apart. Files are in a circle if each reaches
// each by calls of functions and methods of the package.
var structureBounds = map[string]int{
	"files in a circle": 4,
	"lines in a circle": 1500,
	"methods":           40,
	"fields":            20,
	"lines":             600,
}

// structureExcess lists what is over a bound today, with its present number. An
// entry may be lowered or removed, never raised or added: a file is cut in two, a
// type into the things that it does, a circle by passing a value where a method
// of the caller was called.
var structureExcess = map[string]int{}

func TestStructure(t *testing.T) {
	t.Parallel()
	module, _ := listPackages(t)
	// Without NeedDeps, types of imports come from the build cache.
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedExportFile,
	}, module+"/...")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, p := range loaded {
		if len(p.Errors) > 0 {
			t.Fatalf("cannot measure %s: %v", p.PkgPath, p.Errors)
		}
		name := strings.TrimPrefix(p.PkgPath, module+"/")
		maps.Copy(got, measureStructure(name, p.Fset, p.Syntax, p.Types, p.TypesInfo))
		for _, file := range p.IgnoredFiles { // of another platform or tag
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if base := filepath.Base(file); strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go") {
				got[name+"/"+base+": lines"] = strings.Count(string(content), "\n")
			}
		}
	}
	if len(got) < 300 {
		t.Fatalf("only %d figures were measured", len(got))
	}
	for _, problem := range structureProblems(got, structureExcess) {
		t.Error(problem)
	}
}

// measureStructure returns the figures of a package that have a bound, keyed
// "SUBJECT: BOUND".
func measureStructure(name string, fset *token.FileSet, files []*ast.File, pkg *types.Package, info *types.Info) map[string]int {
	figures := map[string]int{}
	lines := map[string]int{}
	calls := map[string]map[string]bool{} // from file to file
	for _, f := range files {
		from := fset.Position(f.Package).Filename
		lines[from] = fset.File(f.Package).LineCount()
		figures[name+"/"+filepath.Base(from)+": lines"] = lines[from]
		calls[from] = map[string]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			if id, is := n.(*ast.Ident); is {
				if fn, is := info.Uses[id].(*types.Func); is && fn.Pkg() == pkg && fn.Pos().IsValid() {
					calls[from][fset.Position(fn.Pos()).Filename] = true
				}
			}
			return true
		})
	}
	for _, circle := range circles(calls) {
		sum := 0
		for _, f := range circle {
			sum += lines[f]
		}
		figures[name+": files in a circle"] = max(figures[name+": files in a circle"], len(circle))
		figures[name+": lines in a circle"] = max(figures[name+": lines in a circle"], sum)
	}
	for _, n := range pkg.Scope().Names() {
		declared, is := pkg.Scope().Lookup(n).(*types.TypeName)
		if !is || declared.IsAlias() {
			continue
		}
		if named, is := declared.Type().(*types.Named); is {
			figures[name+"."+n+": methods"] = named.NumMethods()
			if s, is := named.Underlying().(*types.Struct); is {
				figures[name+"."+n+": fields"] = s.NumFields()
			}
		}
	}
	return figures
}

// circles returns the sets of two and more files that reach each other.
func circles(calls map[string]map[string]bool) [][]string {
	reached := map[string]map[string]bool{}
	var reach func(from, at string)
	reach = func(from, at string) {
		for to := range calls[at] {
			if !reached[from][to] {
				reached[from][to] = true
				reach(from, to)
			}
		}
	}
	files := slices.Sorted(maps.Keys(calls))
	for _, f := range files {
		reached[f] = map[string]bool{}
		reach(f, f)
	}
	var found [][]string
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f] {
			continue
		}
		circle := []string{f}
		for _, g := range files {
			if g != f && reached[f][g] && reached[g][f] {
				circle = append(circle, g)
				seen[g] = true
			}
		}
		if len(circle) > 1 {
			found = append(found, circle)
		}
	}
	return found
}

// structureProblems compares figures with the bounds and the exceptions.
func structureProblems(got, excess map[string]int) []string {
	const how = "edit structureExcess in deployer/structure_test.go"
	var problems []string
	for _, key := range slices.Sorted(maps.Keys(got)) {
		_, what, _ := strings.Cut(key, ": ")
		bound := structureBounds[what]
		allowed, listed := excess[key]
		switch {
		case got[key] <= bound && listed:
			problems = append(problems, fmt.Sprintf("%s is %d, which is within the bound of %d: %s and remove its entry", key, got[key], bound, how))
		case got[key] > bound && !listed:
			problems = append(problems, fmt.Sprintf("%s is %d, over the bound of %d: divide it", key, got[key], bound))
		case got[key] > bound && got[key] > allowed:
			problems = append(problems, fmt.Sprintf("%s is %d, over the %d that it had: divide it, an entry of structureExcess may only shrink", key, got[key], allowed))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(excess)) {
		if _, measured := got[key]; !measured {
			problems = append(problems, fmt.Sprintf("%s is no longer there: %s and remove its entry", key, how))
		}
	}
	return problems
}

// The measure finds what it is for.
func TestStructureCatches(t *testing.T) {
	t.Parallel()
	sources := map[string]string{
		"a.go": "package p\n\nfunc a() { b() }\n\ntype T struct{ x, y int }\n\nfunc (T) m() { b() }\n",
		"b.go": "package p\n\nfunc b() { T{}.n() }\n",
		"c.go": "package p\n\nfunc (T) n() { a() }\n",
		"d.go": "package p\n\nfunc d() { a() }\n", // calls into the circle only
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		f, err := parser.ParseFile(fset, name, sources[name], 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	pkg, err := (&types.Config{Importer: importer.Default()}).Check("p", fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	got := measureStructure("p", fset, files, pkg, info)
	want := map[string]int{
		"p: files in a circle": 3, "p: lines in a circle": 13, "p.T: methods": 2, "p.T: fields": 2,
		"p/a.go: lines": 7, "p/b.go: lines": 3, "p/c.go: lines": 3, "p/d.go: lines": 3,
	}
	if !maps.Equal(got, want) {
		t.Errorf("measured %v, want %v", got, want)
	}

	for _, test := range []struct {
		summary       string
		figure, entry int // 0: no entry
		caught        bool
	}{
		{"within the bound", 40, 0, false},
		{"over the bound", 41, 0, true},
		{"as listed", 50, 50, false},
		{"less than listed", 45, 50, false},
		{"grown", 51, 50, true},
		{"listed without need", 40, 50, true},
	} {
		excess := map[string]int{}
		if test.entry > 0 {
			excess["p.T: methods"] = test.entry
		}
		if got := structureProblems(map[string]int{"p.T: methods": test.figure}, excess); (len(got) > 0) != test.caught {
			t.Errorf("%s: %q", test.summary, got)
		}
	}
	if got := structureProblems(nil, map[string]int{"p.T: methods": 50}); len(got) != 1 {
		t.Errorf("an entry of nothing: %q", got)
	}
}
