package bootstrap

import (
	"context"
	"fmt"
	"strings"

	"deploy/deployer/internal/ssh"
)

// removal is a POSIX script. $1 is the agent's folder, whose agent removes it. A
// folder without an agent is one into which none ever got, or what an
// interrupted removal left.
const removal = `
[ -e "$1" ] || exit 0
for program in "$1/bin/agent" "$1"/bin/agent-*; do
	if [ -x "$program" ]; then exec "$program" uninstall --dir "$1"; fi
done
rm -rf "$1/bin" "$1/incoming" || exit
rmdir "$1" 2>/dev/null || [ -z "$(ls -A "$1")" ]
`

// Uninstall ends the agent on the machine at the far end of conn and all that it
// runs, and removes its folder. A machine that has none is left as it is.
func Uninstall(ctx context.Context, conn *ssh.Client, agentDir string) error {
	_, err := conn.Run(ctx, "sh -s -- "+ssh.Quote(agentDir), strings.NewReader(removal))
	if err != nil {
		return fmt.Errorf("cannot remove the agent in %s from %s: %w", agentDir, conn, err)
	}
	return nil
}
