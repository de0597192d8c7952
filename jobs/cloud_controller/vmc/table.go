package vmc

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints columns.
type table struct{ rows [][]string }

func newTable(columns ...string) *table { return &table{[][]string{columns}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	var text strings.Builder
	tabs := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(tabs, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	if err := tabs.Flush(); err != nil {
		return err
	}
	shown := text.String()
	if colored(w) {
		shown = paint(shown, slices.Index(t.rows[0], "STATE"))
	}
	_, err := io.WriteString(w, shown)
	return err
}

// colored reports whether what is written to w may have colours: to a terminal that
// knows them, of a user who does not mind.
func colored(w io.Writer) bool {
	_, is := terminal(w)
	return is && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// stateColors are the escapes of states that are good, on their way, or bad; others
// have none.
var stateColors = map[string]string{
	"running": "\x1b[32m", "started": "\x1b[32m", "starting": "\x1b[33m",
	"down": "\x1b[31m", "crashed": "\x1b[31m", "flapping": "\x1b[31m",
}

var word = regexp.MustCompile(`\S+`)

// paint colours the states of a table whose columns are aligned; column is the one
// that has them, below 0: none.
func paint(text string, column int) string {
	if column < 0 {
		return text
	}
	var painted strings.Builder
	for n, line := range strings.SplitAfter(text, "\n") {
		words := word.FindAllStringIndex(line, -1)
		if n == 0 || column >= len(words) {
			painted.WriteString(line)
			continue
		}
		from, to := words[column][0], words[column][1]
		if color := stateColors[line[from:to]]; color != "" {
			line = line[:from] + color + line[from:to] + "\x1b[0m" + line[to:]
		}
		painted.WriteString(line)
	}
	return painted.String()
}

// megabytes writes a number of MB as users do.
func megabytes(n int) string {
	if n >= 1024 && n%512 == 0 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/1024), ".0") + "G"
	}
	return fmt.Sprintf("%dM", n)
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
}

// age writes how long something lasts.
func age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// clock formats a time in Unix seconds, in the zone of this machine.
func clock(seconds int64) string { return time.Unix(seconds, 0).Format(time.DateTime) }
