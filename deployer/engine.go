package deployer

import (
	"context"

	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Engine is the program that makes VMs: OpenTofu or Terraform.
type Engine = terraform.Engine

// FindEngine returns the engine that a run would use, built first if there is none.
// report hears of what takes long.
func FindEngine(ctx context.Context, report func(string)) (Engine, error) {
	return terraform.Find(ctx, terraform.FindOptions{Report: report})
}
