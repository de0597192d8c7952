// Command lint has the analyzers that neither go vet nor staticcheck has, for
// "go vet -vettool", which remembers what it has looked at. It is a module of its
// own, so that no user of the project has its dependencies.
package main

import (
	"github.com/polyfloyd/go-errorlint/errorlint"
	"golang.org/x/tools/go/analysis/passes/sortslice"
	"golang.org/x/tools/go/analysis/unitchecker"
)

func main() {
	unitchecker.Main(
		errorlint.NewAnalyzer(), // errors compared or asserted although they may be wrapped
		sortslice.Analyzer,      // sort.Slice of what is no slice
	)
}
