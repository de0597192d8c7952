package views

import (
	"fmt"
	"io"
	"strings"

	"github.com/clusterworks/deploy/deployer"
)

// Diagnosis prints one line a finding, and below it what to do. What is wrong at
// several instances alike is told once.
func Diagnosis(w io.Writer, d *deployer.Diagnosis, color bool) {
	paints := map[deployer.Level]ansi{deployer.LevelOK: green, deployer.LevelWarn: yellow, deployer.LevelFail: red}
	counts := map[deployer.Level]int{}
	var texts []string
	for _, f := range cleaned(d.Findings) {
		counts[f.Level]++
		fix := f.Fix
		if f.Level == deployer.LevelOK {
			fix = ""
		}
		// Level and fix belong to what is alike; the instances come between them.
		texts = append(texts, strings.Join([]string{string(f.Level), fix, f.Check + ": " + strings.ReplaceAll(f.Message, "\n", "\n      ")}, "\x00"))
	}
	for _, text := range likewise(texts, func(i int) bool { return d.Findings[i].Level == deployer.LevelOK }) {
		parts := strings.SplitN(text, "\x00", 3)
		level := deployer.Level(parts[0])
		fmt.Fprintf(w, "%s  %s\n", paint(color, paints[level], fmt.Sprintf("%-4s", level)), parts[2])
		if parts[1] != "" {
			fmt.Fprintf(w, "      %s %s\n", paint(color, faint, "->"), parts[1])
		}
	}
	fmt.Fprintf(w, "\n%d ok, %s, %s\n", counts[deployer.LevelOK], Count(counts[deployer.LevelWarn], "warning"), Count(counts[deployer.LevelFail], "failure"))
}
