"""What several tests share: the other side, where it runs, the engines, values. There are no tests here."""
