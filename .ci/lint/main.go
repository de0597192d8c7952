// Command lint has the analyzers of go vet and staticcheck and two that neither has,
// for "go vet -vettool", which looks at each package once for all of them and
// remembers what it has looked at. It is a module of its own, so that no user of the
// project has its dependencies.
package main

import (
	"encoding/gob"
	"encoding/json"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/polyfloyd/go-errorlint/errorlint"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/printf"
	"golang.org/x/tools/go/analysis/passes/sortslice"
	"golang.org/x/tools/go/analysis/suite/vet"
	"golang.org/x/tools/go/analysis/unitchecker"
	"honnef.co/go/tools/analysis/facts/directives"
	"honnef.co/go/tools/analysis/lint"
	"honnef.co/go/tools/simple"
	"honnef.co/go/tools/staticcheck"
	"honnef.co/go/tools/stylecheck"
	"honnef.co/go/tools/unused"
)

func main() {
	all := slices.Clone(vet.Suite)
	for _, one := range slices.Concat(staticcheck.Analyzers, simple.Analyzers, stylecheck.Analyzers) {
		all = append(all, obeyDirectives(one.Analyzer))
	}
	all = append(all,
		obeyDirectives(reportUnused()),
		errorlint.NewAnalyzer(), // errors compared or asserted although they may be wrapped
		sortslice.Analyzer,      // sort.Slice of what is no slice
	)
	if ofOthers(os.Args[1:]) {
		registerFacts(all)
		all = factsOfOthers()
	}
	unitchecker.Main(all...)
}

// registerFacts makes known the facts of all analyzers, as those of a package that
// was looked at wholly have to be read.
func registerFacts(all []*analysis.Analyzer) {
	for _, a := range all {
		for _, fact := range a.FactTypes {
			gob.Register(fact)
		}
		registerFacts(a.Requires)
	}
}

// ofOthers reports whether go vet asks only for what is to be known of a package of
// another module or of Go's library. There are a thousand of these, which cost ten
// times what our own packages do.
func ofOthers(args []string) bool {
	if len(args) == 0 || !strings.HasSuffix(args[len(args)-1], ".cfg") {
		return false
	}
	data, err := os.ReadFile(args[len(args)-1])
	var asked struct {
		ImportPath string
		VetxOnly   bool
	}
	if err != nil || json.Unmarshal(data, &asked) != nil {
		return false // unitchecker says what is wrong
	}
	return asked.VetxOnly && !strings.HasPrefix(asked.ImportPath, "github.com/clusterworks/deploy") &&
		!slices.Contains(looked, asked.ImportPath)
}

// looked are the packages of Go's library that are looked at wholly: a call of theirs
// whose result nobody uses is a mistake that is often made.
var looked = []string{"bytes", "errors", "fmt", "maps", "net/url", "path", "path/filepath", "slices", "sort", "strconv", "strings", "time"}

// factsOfOthers returns the analyzers that find out of a package what is deprecated
// and which functions format as Printf does. The others' facts (which functions never
// return nil, which have no effect) need the package's control flow.
func factsOfOthers() []*analysis.Analyzer {
	var facts []*analysis.Analyzer
	for _, one := range staticcheck.Analyzers {
		if one.Analyzer.Name == "SA1019" {
			facts = append(facts, one.Analyzer)
		}
	}
	return append(facts, printf.Analyzer)
}

// obeyDirectives leaves out what a comment //lint:ignore CHECK... REASON is before,
// as the staticcheck command does. A directive needs its reason.
func obeyDirectives(a *analysis.Analyzer) *analysis.Analyzer {
	run := a.Run
	a.Requires = append(a.Requires, directives.Analyzer)
	a.Run = func(pass *analysis.Pass) (any, error) {
		report := pass.Report
		type line struct {
			file string
			line int
		}
		ignored := map[line]bool{}
		at := func(pos token.Pos) line {
			p := pass.Fset.Position(pos)
			return line{p.Filename, p.Line}
		}
		for _, d := range pass.ResultOf[directives.Analyzer].([]lint.Directive) {
			if d.Command != "ignore" || len(d.Arguments) < 2 {
				continue
			}
			for check := range strings.SplitSeq(d.Arguments[0], ",") {
				if ok, err := filepath.Match(check, a.Name); err == nil && ok {
					ignored[at(d.Node.Pos())] = true
				}
			}
		}
		pass.Report = func(found analysis.Diagnostic) {
			if !ignored[at(found.Pos)] {
				found.Message += " (" + a.Name + ")"
				report(found)
			}
		}
		return run(pass)
	}
	return a
}

// reportUnused reports what staticcheck's U1000 finds, which only its own command
// does. go vet looks at a package together with its tests, whose uses count.
func reportUnused() *analysis.Analyzer {
	return &analysis.Analyzer{
		Name: "U1000", Doc: "reports unused code", Requires: []*analysis.Analyzer{unused.Analyzer.Analyzer},
		Run: func(pass *analysis.Pass) (any, error) {
			for _, object := range pass.ResultOf[unused.Analyzer.Analyzer].(unused.Result).Unused {
				pos := token.NoPos
				pass.Fset.Iterate(func(f *token.File) bool {
					if f.Name() != object.Position.Filename {
						return true
					}
					pos = f.LineStart(object.Position.Line)
					return false
				})
				pass.Reportf(pos, "%s %s is unused", object.Kind, object.Name)
			}
			return nil, nil
		},
	}
}
