package views

import (
	"fmt"
	"io"
	"strings"

	"github.com/clusterworks/deploy/deployer"
)

// Diagnosis prints one line a finding, and below it what to do.
func Diagnosis(w io.Writer, d *deployer.Diagnosis, color bool) {
	paints := map[deployer.Level]ansi{deployer.LevelOK: green, deployer.LevelWarn: yellow, deployer.LevelFail: red}
	counts := map[deployer.Level]int{}
	for _, f := range cleaned(d.Findings) {
		counts[f.Level]++
		message := strings.ReplaceAll(f.Message, "\n", "\n      ")
		fmt.Fprintf(w, "%s  %s: %s\n", paint(color, paints[f.Level], fmt.Sprintf("%-4s", f.Level)), f.Check, message)
		if f.Fix != "" && f.Level != deployer.LevelOK {
			fmt.Fprintf(w, "      %s %s\n", paint(color, faint, "->"), f.Fix)
		}
	}
	fmt.Fprintf(w, "\n%d ok, %d warnings, %d failures\n", counts[deployer.LevelOK], counts[deployer.LevelWarn], counts[deployer.LevelFail])
}
