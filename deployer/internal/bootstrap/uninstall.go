package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/ssh"
)

// ErrForeign says that the agent on a machine is another deployment's.
var ErrForeign = errors.New("the agent there belongs to another deployment")

// foreign is the status of `agent uninstall` for that.
const foreign = 4

// removal is a POSIX script. $1 is the agent's folder, whose agent removes it if
// it belongs to deployment $2. A folder without an agent is one into which none ever got, or what an
// interrupted removal left.
const removal = `
[ -e "$1" ] || exit 0
for program in "$1/bin/agent" "$1"/bin/agent-*; do
	if [ -x "$program" ]; then exec "$program" uninstall --dir "$1" --deployment "$2"; fi
done
rm -rf "$1/bin" "$1/incoming" || exit
rmdir "$1" 2>/dev/null || [ -z "$(ls -A "$1")" ]
`

// Uninstall ends the agent on the machine at the far end of conn and all that it
// runs, and removes its folder. A machine that has none is left as it is, and so,
// with ErrForeign, is an agent of another deployment.
func Uninstall(ctx context.Context, conn *ssh.Client, agentDir, deploymentID string) error {
	_, err := conn.Run(ctx, "sh -s -- "+ssh.Quote(agentDir)+" "+ssh.Quote(deploymentID), strings.NewReader(removal))
	if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) && exit.Status == foreign {
		return ErrForeign
	}
	if err != nil {
		return fmt.Errorf("cannot remove the agent in %s from %s: %w", agentDir, conn, err)
	}
	return nil
}
