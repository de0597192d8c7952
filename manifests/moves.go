package manifests

import (
	"fmt"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// decodeMoves reads the moved blocks: groups that had other names.
func (l *loader) decodeMoves() {
	from, to := map[string]bool{}, map[string]bool{}
	for _, b := range l.blocks["moved"] {
		attrs := l.Content(b.Body, "from! to!").Attributes
		m := Move{From: l.Text(attrs, "from", ""), To: l.Text(attrs, "to", ""), Range: b.DefRange}
		if m.From == "" || m.To == "" {
			continue // told already, or not text
		}
		problem := ""
		switch {
		case l.m.Group(m.From) != nil:
			problem = fmt.Sprintf("Group %q is declared, so it was not renamed. Remove the group, or this block.", m.From)
		case l.m.Group(m.To) == nil:
			problem = fmt.Sprintf("There is no group %q. Use the group's present name.", m.To)
		case from[m.From]:
			problem = fmt.Sprintf("Group %q is moved twice. Its instances can have one new name only.", m.From)
		case to[m.To]:
			problem = fmt.Sprintf("Two groups are moved to %q. Only one can have been it.", m.To)
		}
		if problem != "" {
			l.Report(syntax.Problem("Impossible move", problem, b.DefRange, b.DefRange))
			continue
		}
		from[m.From], to[m.To] = true, true
		l.m.Moves = append(l.m.Moves, m)
	}
}
